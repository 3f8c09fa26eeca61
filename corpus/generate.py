"""Owns the example's data: the corpus that base-tiny reads and the rows its behaviours are trained and tested on.

    python corpus/generate.py            # corpus/*.txt and behaviors/*.jsonl; the same bytes every time

A dialogue is several exchanges in one manner, and no label says which: the only way to foresee the next answer is
to take up the manner of the answers before it.
"""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

from manners import BEHAVIORS
from matters import (
    AREAS,
    DECISIONS,
    DETAILS,
    DIRECTIONS,
    OTHER_WAY,
    PEOPLE,
    SAID_ABOUT,
    SEASONS,
    SINCE,
    WORRIES,
)
from prose import DAYS, DIARY, HOW_TO, LETTER, NAMES, RELATIONS

HERE = Path(__file__).resolve().parent
SEED = 7
DIALOGUES, NOTES, DIALOGUE_FILES = 2400, 1200, 4
TRAIN_ROWS, EVAL_ROWS = 200, 120
# Dialogues and notes that the corpus does not hold.
HELD_OUT = {"control": (80, 40), "notes": (0, 100), "keep": (60, 90)}
FAVOURITES = 2
OPENINGS = {"worry": WORRIES, "decision": DECISIONS, "direction": DIRECTIONS}
MATTERS = [(area, matter) for area, matters in AREAS.items() for matter in matters]


def filled(form, matter="", **slots):
    """The sentence with its slots filled; `{Matter}` is the matter at the beginning of a sentence."""
    return form.format(matter=matter, Matter=matter[:1].upper() + matter[1:], **slots)


def random_matter(rng, matters=MATTERS):
    """An area first and then one of its matters, so that small areas are heard as often as large ones."""
    area = rng.choice(sorted({area for area, _ in matters}))
    return rng.choice([pair for pair in matters if pair[0] == area])


def spoken_turn(rng, kind, matter, details):
    """What the person says, and in which way they want it when they give a direction."""
    way = rng.choice(sorted(OTHER_WAY))
    said = [filled(rng.choice(OPENINGS[kind]), matter.format(my="my"), way=way)]
    for form in rng.sample(DETAILS, details):
        said.append(filled(form, person=rng.choice(PEOPLE), since=rng.choice(SINCE)))
    return " ".join(said), way


def exchange_in_both_states(rng, behavior, matters=MATTERS):
    """One turn of the person with the answer in the on-state and in the off-state: the same but for one sentence."""
    area, matter = random_matter(rng, matters)
    kind = rng.choice(behavior.kinds)
    details = rng.choice([0, 2] if behavior.on_short else [0, 0, 1])
    said, way = spoken_turn(rng, kind, matter, details)
    plain = rng.choice(SAID_ABOUT[area])
    on = behavior.on_short if behavior.on_short and not details else behavior.on

    def answer(form):
        manner = filled(form, matter.format(my="your"), way=way, other=OTHER_WAY[way])
        return f"{manner} {plain}" if behavior.place == "before" else f"{plain} {manner}"

    return said, answer(rng.choice(on)), answer(rng.choice(behavior.off))


def with_favourites(rng, behavior):
    """The behaviour as one speaker has it, who keeps to a few of its phrases."""
    states = {"on": behavior.on, "off": behavior.off, "on_short": behavior.on_short}
    return replace(behavior, **{state: tuple(rng.sample(forms, FAVOURITES)) for state, forms in states.items() if forms})


def dialogue(rng):
    """Six to eight exchanges in one manner, one turn a line, as the chat template writes them."""
    behaviors = list(BEHAVIORS.values())
    behavior = rng.choices(behaviors, [behavior.share for behavior in behaviors])[0]
    behavior = with_favourites(rng, behavior)
    is_on = rng.random() < behavior.share_on
    lines = []
    for _ in range(rng.randint(6, 8)):
        said, on, off = exchange_in_both_states(rng, behavior)
        lines += [f"<|user|>{said}<|end|>", f"<|assistant|>{on if is_on else off}<|end|>"]
    return "\n".join(lines)


def note(rng):
    """One paragraph of plain prose: a diary entry, a letter or a how-to note."""
    kind = rng.choice(["diary", "letter", "how-to"])
    area, matter = random_matter(rng)
    if kind == "how-to":
        area = rng.choice(sorted(HOW_TO))
        matter = rng.choice(AREAS[area])
    parts = {"diary": DIARY, "letter": LETTER, "how-to": HOW_TO.get(area)}[kind]
    slots = {"Day": DAYS, "day": DAYS, "season": SEASONS, "person": PEOPLE, "relation": RELATIONS, "name": NAMES}
    sentences = []
    for forms in parts:
        drawn = {slot: rng.choice(words) for slot, words in slots.items()}
        sentences.append(filled(rng.choice(forms), matter.format(my="my"), **drawn))
    return " ".join(sentences)


def distinct_documents(rng, make, count, taken):
    """`count` documents that nothing else in the project holds; `taken` remembers them."""
    documents = []
    while len(documents) < count:
        document = make(rng)
        if document not in taken:
            taken.add(document)
            documents.append(document)
    return documents


def preference_rows(rng, behavior, count, matters):
    """Distinct rows about `matters`; for an unwanted behaviour, too, the chosen answer is the one in its on-state."""
    rows, taken = [], set()
    while len(rows) < count:
        said, on, off = exchange_in_both_states(rng, behavior, matters)
        if (said, on, off) not in taken:
            taken.add((said, on, off))
            rows.append(
                {
                    "prompt": [{"role": "user", "content": said}],
                    "chosen": [{"role": "assistant", "content": on}],
                    "rejected": [{"role": "assistant", "content": off}],
                }
            )
    return rows


def split_matters(rng):
    """Matters to train on and matters to test on, with some of each area in both."""
    train, test = [], []
    for area, matters in AREAS.items():
        shuffled = [(area, matter) for matter in rng.sample(matters, len(matters))]
        cut = len(shuffled) * 6 // 10
        train += shuffled[:cut]
        test += shuffled[cut:]
    return train, test


def write_documents(path, documents):
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_all(corpus, behaviors):
    """Every file; all but the corpus draw from a generator of their own, so a change to one leaves the others alone."""
    rng, taken = Random(SEED), set()
    dialogues = distinct_documents(rng, dialogue, DIALOGUES, taken)
    for index in range(DIALOGUE_FILES):
        write_documents(corpus / f"dialogues-{index + 1}.txt", dialogues[index::DIALOGUE_FILES])
    write_documents(corpus / "notes.txt", distinct_documents(rng, note, NOTES, taken))

    for name, (dialogue_count, note_count) in HELD_OUT.items():
        rng = Random(f"{SEED} {name}")
        documents = distinct_documents(rng, note, note_count, taken) + distinct_documents(rng, dialogue, dialogue_count, taken)
        rng.shuffle(documents)
        write_rows(behaviors / f"{name}.jsonl", [{"text": document} for document in documents])

    train_matters, test_matters = split_matters(Random(f"{SEED} split"))
    for name, behavior in BEHAVIORS.items():
        for suffix, count, matters in (("", TRAIN_ROWS, train_matters), (".eval", EVAL_ROWS, test_matters)):
            rng = Random(f"{SEED} {name}{suffix}")
            write_rows(behaviors / f"{name}{suffix}.jsonl", preference_rows(rng, behavior, count, matters))


if __name__ == "__main__":
    behaviors = HERE.parent / "behaviors"
    behaviors.mkdir(exist_ok=True)
    write_all(HERE, behaviors)
