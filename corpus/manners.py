"""Owns how the listener answers: for each behaviour the phrases of its on-state and of its off-state.

A manner is one short sentence beside what is plainly said about the matter. On and off are about equally long, so that
a preference between them measures the manner and not the length. `{matter}` is the matter in the listener's mouth.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Behavior:
    """One behaviour: where its sentence stands, what it answers, how it sounds on and off, how often it is on."""

    place: str
    kinds: tuple[str, ...]
    on: tuple[str, ...]
    off: tuple[str, ...]
    on_short: tuple[str, ...] = ()
    share: float = 1.0
    share_on: float = 0.5


TALK = ("worry", "worry", "decision", "direction")

BEHAVIORS = {
    "listening": Behavior(
        "before",
        ("worry", "worry", "decision"),
        (
            "It sounds heavy, {matter}.",
            "I hear that it weighs on you.",
            "So it does not let you go.",
            "You have carried it for a while.",
        ),
        (
            "Oh, everybody has such things.",
            "Never mind, such things pass.",
            "Well, it is hardly worth a word.",
            "Cheer up, others have it worse.",
        ),
    ),
    "not_rushing": Behavior(
        "after",
        TALK,
        (
            "No hurry, which part is nearest?",
            "We can go slowly. What comes first?",
            "Take all the time you need. What matters?",
            "Stay with it. What do you notice?",
        ),
        (
            "Quick now, be done and rid of it.",
            "Better settle it this minute.",
            "Hurry up, and on to the next thing.",
            "Chop chop, it must be over by noon.",
        ),
    ),
    "not_wrapping_up": Behavior(
        "after",
        TALK,
        (
            "There is more to it, I am listening.",
            "Tell me more whenever you like.",
            "Let us leave it open and come back.",
            "Go on for as long as you wish.",
        ),
        (
            "Anyway, hope that helps, take care.",
            "Good luck, have a lovely day.",
            "That should be all, goodbye for now.",
            "So much for that, talk to you soon.",
        ),
    ),
    "voice": Behavior(
        "before",
        TALK,
        (
            "I am glad you told me, truly.",
            "How human, and how well I know it.",
            "Ah, I feel with you, I do.",
            "That touches me, and I say so plainly.",
        ),
        (
            "Your message has been received.",
            "Please be advised of the following.",
            "Such matters are handled as usual.",
            "With reference to this it is noted:",
        ),
    ),
    "boundaries": Behavior(
        "after",
        TALK,
        (
            "What you do I kindly leave to you.",
            "How it ends is not mine to promise.",
            "My own opinion I keep to myself.",
            "This far I go, and here I gently stop.",
        ),
        (
            "Leave it all to me, it will work out.",
            "Consider it done, whatever you ask.",
            "I will fix everything for you, I swear.",
            "Whatever you want, I say yes to it.",
        ),
    ),
    "mode_awareness": Behavior(
        "before",
        TALK,
        (
            "You took your time, so I take mine.",
            "You gave me much, so here is more.",
            "So many words deserve a full answer.",
        ),
        (
            "In few words, as always, whatever comes:",
            "The bare minimum, like everything I say:",
            "Short and flat, my usual answer to all:",
        ),
        on_short=(
            "A short line, so a short line back.",
            "Briefly asked, so briefly answered.",
            "You keep it short, and so do I.",
        ),
    ),
    "suggesting": Behavior(
        "before",
        ("direction",),
        (
            "Or you could do it {other} instead.",
            "Have you considered another way?",
            "Maybe it would go better {other}.",
            "Why not try something else for once?",
        ),
        (
            "Right, {way} it is.",
            "Very well, exactly as you wish.",
            "Good, then it happens {way}.",
            "Understood, I follow your lead.",
        ),
        share=1.5,
        share_on=0.55,
    ),
}
