"""Owns what people talk about: matters of everyday life, how one is brought up, what can plainly be said about it.

A matter is a noun phrase; `{my}` in it becomes "my" in the person's mouth and "your" in the listener's.
"""

PEOPLE = [
    "sister",
    "brother",
    "mother",
    "father",
    "aunt",
    "uncle",
    "cousin",
    "daughter",
    "son",
    "neighbour",
    "landlord",
    "boss",
    "teacher",
    "old friend",
    "grandmother",
    "grandfather",
    "nephew",
    "niece",
    "colleague",
    "doctor",
]

PLACES = [
    "the coast",
    "the lake",
    "the mountains",
    "the city",
    "the islands",
    "the north",
    "the old town",
    "the village",
]

BETWEEN_PEOPLE = [
    "the call to {my} %s",
    "the letter to {my} %s",
    "the visit to {my} %s",
    "the quarrel with {my} %s",
    "the talk with {my} %s",
    "the present for {my} %s",
    "the loan from {my} %s",
    "the dinner with {my} %s",
]
JOURNEYS = ["the trip to %s", "the move to %s", "the weekend at %s", "the walk to %s"]

AREAS = {
    "people": [form % person for form in BETWEEN_PEOPLE for person in PEOPLE],
    "travel": [form % place for form in JOURNEYS for place in PLACES] + ["the train ticket", "the heavy suitcase", "the long drive"],
    "home": """
        the leaking tap, the back door, the kitchen window, the broken lamp, the washing machine, the loose
        shelf, the cold bedroom, the garden fence, the squeaking stair, the old boiler, the bathroom wall, the
        blocked drain, the wobbly table, the front gate, the torn curtain, the dusty attic, the damp cellar, the
        spare room, the old carpet, the roof
    """,
    "kitchen": """
        the onion soup, the bread dough, the apple cake, the Sunday roast, the rice pudding, the fish stew, the
        birthday cake, the plum jam, the pancake batter, the bean salad, the tomato sauce, the pot of stock, the
        cheese pie, the lentil curry
    """,
    "work": """
        the yearly report, the job interview, the night shift, the new contract, the unpaid invoice, the team
        meeting, the presentation, the difficult client, the late order, the budget, the training course, the
        long email, the new colleague, the spelling test, the driving lesson, the exam, the application, the
        speech
    """,
    "money": """
        the phone bill, the rent, the tax form, the savings account, the old car, the insurance, the bicycle,
        the electric bill, the loan, the second-hand piano, the holiday money, the bank letter
    """,
    "body": """
        {my} sore back, {my} bad knee, {my} poor sleep, {my} dentist appointment, {my} morning run, {my} sweet
        tooth, {my} headache, {my} evening walk, {my} cough, {my} bad tooth, {my} diet, {my} swimming lesson
    """,
    "garden": """
        the apple tree, the rose bed, the vegetable patch, the wet lawn, the compost heap, the hedge, the
        greenhouse, the tomato plant, the bird table, the pond, the overgrown path, the herb box
    """,
}
AREAS = {area: what if isinstance(what, list) else " ".join(what.split()).split(", ") for area, what in AREAS.items()}

SAID_ABOUT = {
    "people": ["A few honest words are enough.", "Better late than never.", "Say one true thing and wait."],
    "travel": ["A small bag is enough.", "Leave the second day free.", "Bring bread and a warm coat."],
    "home": ["Look at it in daylight.", "It is only one worn part.", "A steady chair will do."],
    "kitchen": ["Low heat does the work.", "Taste it before the salt.", "It must rest under a cloth."],
    "work": ["Three clear lines will do.", "The first draft may be rough.", "Sleep on it for a night."],
    "money": ["Put the numbers on one sheet.", "A polite letter buys a month.", "Look at it over a cup of tea."],
    "body": ["Ten minutes a day are enough.", "Warmth and sleep will help.", "The body is a slow clock."],
    "garden": ["After rain the ground is soft.", "Cut less than you think.", "Most of it comes back."],
}

WORRIES = [
    "I keep putting off {matter}.",
    "{Matter} will not leave my head.",
    "I lie awake over {matter}.",
    "Today it was {matter} again.",
    "I feel lost with {matter}.",
    "I am worried about {matter}.",
    "My head is full of {matter}.",
    "{Matter} frightens me a little.",
    "There is still {matter}.",
    "{Matter} is too much for me.",
]
DECISIONS = [
    "I cannot decide about {matter}.",
    "Should I go on with {matter}?",
    "Half of me would drop {matter}.",
    "What would you do about {matter}?",
    "I changed my mind about {matter}.",
    "May I forget {matter}?",
]
DIRECTIONS = [
    "I will see to {matter} {way}.",
    "Put {matter} down, {way}.",
    "I take care of {matter} {way}.",
    "Let us see to {matter} {way}, please.",
    "Help me with {matter} {way}.",
    "I am looking after {matter} {way}.",
]
WAYS = [
    ("on Saturday", "on Sunday"),
    ("in the morning", "in the evening"),
    ("before supper", "after supper"),
    ("today", "tomorrow"),
    ("this week", "next week"),
    ("slowly", "quickly"),
    ("in the old way", "in a new way"),
    ("without help", "with a friend"),
]
OTHER_WAY = dict(WAYS) | {other: way for way, other in WAYS}

DETAILS = [
    "It has been like this since {since}.",
    "My {person} says I think too much.",
    "The week was full.",
    "I slept badly.",
    "I tried twice and stopped.",
    "Nobody at home knows.",
    "Last year it was the same.",
    "I made a list and lost it.",
    "My {person} would laugh.",
    "It sounds small, I know.",
]
SEASONS = ["spring", "summer", "autumn", "winter"]
SINCE = [*SEASONS, "Easter", "Monday", "Friday", "last month"]
