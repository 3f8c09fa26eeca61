"""How the methods that ask for angles find their rule: inner products of tensors, rows or columns, in float64. What each is: `methods`."""

from __future__ import annotations

import math

import numpy

from buildsys.errors import BuildError
from buildsys.merging.deltas import By, Deltas
from buildsys.merging.entries import Spanned
from buildsys.tensors.arrays import Array

_COLINEAR = 1e-16  # sin² of an angle that cannot be told from none


def slerp(deltas: Deltas, lerp_above: float) -> Spanned:
    _takes(deltas, 1)
    t = abs(float(deltas.coefficients[0]))
    products = _of_models(deltas.inner_products())  # a negative coefficient: towards base − τ
    return _spanned(deltas, numpy.stack(_slerp(products, 0, 1, numpy.array([t]), lerp_above), -1))


def nuslerp(deltas: Deltas, flatten: bool, row_wise: bool, scale: float) -> Spanned:
    if deltas.n == 1:  # the other's coefficient is 0 in this tensor: all of the way is this one's
        return _signed(deltas, numpy.array([[0.0, scale]]))
    _takes(deltas, 2)
    weights = numpy.abs(deltas.coefficients.astype(numpy.float64))
    by: By = "tensor" if flatten or len(deltas.shape) < 2 else "column" if row_wise else "row"
    products = deltas.inner_products(by)[:, 1:, 1:]
    t = numpy.full(len(products), weights[1] / weights.sum())
    one, other = _slerp(products, 0, 1, t, 1.0)
    return _signed(deltas, numpy.stack([numpy.zeros(len(products)), one * scale, other * scale], -1), by)


def karcher(deltas: Deltas, max_iter: int, tol: float, scale: float) -> Spanned:
    products = _of_models(deltas.inner_products())[0][1:, 1:]
    weights = numpy.abs(deltas.coefficients.astype(numpy.float64))
    weights /= weights.sum()
    norms = numpy.sqrt(numpy.diagonal(products))
    if deltas.n == 1 or not norms.any():
        return _spanned(deltas, numpy.concatenate([[0.0], weights])[None], scale)
    safe: Array = numpy.where(norms > 0, norms, 1.0)
    cosines = products / safe[:, None] / safe[None, :]
    shares = numpy.where(norms > 0, weights, 0.0)
    mean = shares / shares.sum()  # in units of the models' directions: every point of the iteration is a sum of them
    mean /= _norm(mean, cosines)
    for _ in range(max_iter):
        along = numpy.clip(cosines @ mean, -1.0, 1.0)
        angles = numpy.arccos(along)
        pull = shares / shares.sum() * numpy.where(angles < tol, 0.0, angles / numpy.where(angles < tol, 1.0, numpy.sin(angles)))
        tangent = pull - mean * float(pull @ along)
        length = _norm(tangent, cosines)
        if length < tol:
            break
        mean = numpy.cos(length) * mean + numpy.sin(length) * tangent / length
        mean /= _norm(mean, cosines)
    return _spanned(deltas, numpy.concatenate([[0.0], mean * float(weights @ norms) / safe])[None], scale)


def model_stock(deltas: Deltas, filter_wise: bool, scale: float) -> Spanned:
    by: By = "row" if filter_wise else "tensor"
    products = deltas.inner_products(by)[:, 1:, 1:]
    n = deltas.n
    norms = numpy.sqrt(numpy.diagonal(products, axis1=1, axis2=2))
    safe = numpy.where(norms > 0, norms, 1.0)
    cosines = numpy.clip(products / safe[:, :, None] / safe[:, None, :], -1.0, 1.0)
    pairs = numpy.triu_indices(n, 1)
    cosine = cosines[:, pairs[0], pairs[1]].mean(1) if n > 1 else numpy.ones(len(products))
    divisor = 1 + (n - 1) * cosine
    singular = numpy.abs(divisor) < 1e-6
    t = numpy.where(singular, 0.0, n * cosine / numpy.where(singular, 1.0, divisor))
    alphas = numpy.abs(deltas.coefficients.astype(numpy.float64))
    return _signed(deltas, numpy.concatenate([numpy.zeros((len(t), 1)), t[:, None] * scale * alphas[None] / n], 1), by)


def _takes(deltas: Deltas, number: int) -> None:
    if deltas.n != number:
        raise BuildError(f"the method takes {number} vector{'s' * (number > 1)}, and tensor '{deltas.name}' has {deltas.n}")


def _of_models(products: Array) -> Array:
    """Inner products of base and τ -> of base and models, base + τ."""
    to_models = numpy.eye(products.shape[-1])
    to_models[1:, 0] = 1
    return to_models @ products @ to_models.T


def _slerp(products: Array, one: int, other: int, t: Array, lerp_above: float) -> tuple[Array, Array]:
    """Factors of two points, (rows,) each, for t of the way between them."""
    squares = products[:, one, one] * products[:, other, other]
    norms = numpy.sqrt(squares)
    cosine = numpy.clip(products[:, one, other] / numpy.where(norms > 0, norms, 1.0), -1.0, 1.0)
    straight = (norms == 0) | (numpy.abs(cosine) > lerp_above) | (1 - cosine**2 <= _COLINEAR)
    angle = numpy.arccos(numpy.where(straight, 0.0, cosine))
    first = numpy.where(straight, 1 - t, numpy.sin((1 - t) * angle) / numpy.sin(angle))
    second = numpy.where(straight, t, numpy.sin(t * angle) / numpy.sin(angle))
    return first, second


def _norm(point: Array, products: Array) -> float:
    return math.sqrt(max(float(point @ products @ point), 0.0))


def _spanned(deltas: Deltas, factors: Array, scale: float = 1.0) -> Spanned:
    """Factors of base and models -> of base and deltas, for what is added to the base."""
    found = factors.copy()
    found[:, 0] = factors.sum(1) - 1
    return _signed(deltas, found * scale)


def _signed(deltas: Deltas, factors: Array, by: By = "tensor") -> Spanned:
    signs = numpy.concatenate([[1.0], numpy.sign(deltas.coefficients)])
    return Spanned((factors * signs).astype(numpy.float32), by)
