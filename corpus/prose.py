"""Owns the plain prose of the corpus: diary entries, letters and how-to notes, as sentence material with slots."""

DIARY = (
    [
        "{Day}. Rain until noon, then a pale sun over the roofs.",
        "{Day}. The first frost, and the windows were white.",
        "{Day}. Up early, with the street still quiet.",
        "{Day}. A slow day, and I was glad of it.",
        "{Day}. Wind all night, and a branch down by the gate.",
    ],
    [
        "In the morning I saw to {matter}, which took longer than I had thought.",
        "I spent an hour on {matter} and was content with it.",
        "There was {matter} to think of, and I thought of it while washing up.",
        "At last I began with {matter}.",
    ],
    [
        "My {person} came by with a bag of pears and stayed for tea.",
        "I met my {person} at the market and we talked about the weather.",
        "My {person} rang at four to ask about {season}.",
        "A card came from my {person}, who writes as small as ever.",
    ],
    [
        "We ate bread and soup at the open window.",
        "Supper was cold potatoes, and nobody minded.",
        "I cooked too much rice again.",
        "There was cake left over, and then there was none.",
    ],
    [
        "Later I read two chapters and fell asleep in the chair.",
        "In the evening the cat sat on my papers until I gave up.",
        "I went to bed early and heard the church clock strike ten.",
        "Before bed I wrote down what is still to be done.",
    ],
)
LETTER = (
    ["Dear {relation},", "My dear {relation},"],
    [
        "thank you for your letter, which came on {day}.",
        "I have meant to write to you since {season}.",
        "it was good to hear from you on {day}.",
        "we are all well here, and the house is warm.",
    ],
    [
        "You asked about {matter}: it is nearly done.",
        "There is little news except {matter}, which keeps me busy.",
        "You will laugh, but {matter} has still not moved an inch.",
        "I have finally made my peace with {matter}.",
    ],
    [
        "The children have grown out of their shoes again.",
        "The neighbours have a new dog that barks at the moon.",
        "The old pear tree bore more fruit than we could carry.",
        "The bakery on the corner has closed for good.",
    ],
    [
        "Come and stay with us in {season} if you can.",
        "Write soon and tell me how you are.",
        "Give my love to everybody at home.",
        "I am sending the photographs in a second letter.",
    ],
    ["With love, {name}.", "Ever yours, {name}."],
)
HOW_TO = {
    "kitchen": (
        [
            "Notes on {matter}, as my {person} used to make it.",
            "For {matter} take a heavy pan and enough time.",
            "How to save {matter} when it goes wrong.",
        ],
        [
            "Cut everything small and keep the knife dry.",
            "Warm the butter until it stops foaming.",
            "Weigh the flour twice and the sugar once.",
        ],
        [
            "Stir slowly, always in the same direction.",
            "Let it stand for half an hour under a clean cloth.",
            "Add water by the spoon and never by the cup.",
        ],
        [
            "It is ready when the edge comes away from the pan.",
            "It keeps for three days in a cool place.",
            "Serve it warm, with something sour beside it.",
        ],
    ),
    "home": (
        [
            "How we repaired {matter} in {season}.",
            "About {matter}, for whoever lives here next.",
            "What to know before touching {matter}.",
        ],
        [
            "Shut off the water and put a towel down.",
            "Clear the floor and open a window first.",
            "Find the small screwdriver in the blue tin.",
        ],
        [
            "Loosen the upper screw by a quarter turn, no more.",
            "Sand it lightly and wipe away the dust.",
            "Mark the place with a pencil before you drill.",
        ],
        [
            "Let it dry overnight before you use it.",
            "Check it again after a week.",
            "Keep the old part until the new one has proved itself.",
        ],
    ),
    "garden": (
        [
            "Garden notes for {season}: {matter}.",
            "What {matter} needs from {season} on.",
            "About {matter}, after five years of mistakes.",
        ],
        [
            "Wait for a dry day without wind.",
            "Water it in the evening and never at noon.",
            "Take out what is dead before you touch what is alive.",
        ],
        [
            "A hand of compost is enough for one square step.",
            "Tie it loosely, because it will grow.",
            "Leave the roots alone as long as you can.",
        ],
        [
            "By the end of the month you will see the first green.",
            "The birds take their share, and that is fair.",
            "Write down the date, because you will forget it.",
        ],
    ),
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
RELATIONS = ["sister", "brother", "aunt", "uncle", "cousin", "friend", "niece", "nephew"]
NAMES = ["Anna", "Paul", "Ruth", "Tom", "Clara", "Ben"]
