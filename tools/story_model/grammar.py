"""What does a small children's story look like?  A cast, a plot, and sentences that agree with both.

The one rule: every word here was written for this grammar, and a seed decides a story completely, so the
corpus (and with it the model trained on it) can be made again from this file alone.

A sentence pattern has two marks: ``{slot}`` is filled from the story's cast, which stays fixed from the first
sentence to the last, and ``[one|other]`` is an alternative drawn anew each time.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Slots = dict[str, str]
Step = tuple[str, ...]  # alternatives for one moment of the plot; with "" among them it may be left out

FEWEST_SENTENCES = 4
MOST_SENTENCES = 8

SHE_NAMES = (
    "Mia",
    "Ruby",
    "Nora",
    "Ella",
    "Ivy",
    "Zoe",
    "Anna",
    "Rosa",
    "Clara",
    "Tess",
    "Hana",
    "Luna",
    "Daisy",
    "Poppy",
    "Wren",
    "Emma",
    "Lucy",
    "Maya",
)
HE_NAMES = (
    "Ben",
    "Tom",
    "Max",
    "Sam",
    "Leo",
    "Finn",
    "Otto",
    "Noah",
    "Jack",
    "Theo",
    "Oscar",
    "Hugo",
    "Milo",
    "Toby",
    "Ravi",
    "Amir",
    "Pip",
    "Adam",
)
ANIMALS = (
    "rabbit",
    "fox",
    "bear",
    "mouse",
    "duck",
    "frog",
    "owl",
    "cat",
    "dog",
    "pig",
    "goat",
    "turtle",
    "squirrel",
    "hedgehog",
    "bird",
    "lamb",
)
SIZES = ("little", "small", "young", "tiny")
TRAITS = ("kind", "curious", "shy", "quiet", "brave", "cheerful", "clever", "gentle", "playful", "friendly")
HOMES = (
    "in a small house by the sea",
    "in a green forest",
    "on a quiet farm",
    "near a big lake",
    "in a cozy house on a hill",
    "in a little town",
    "at the edge of the woods",
    "in a village by the river",
)
LOVES = (
    "to sing songs",
    "to run in the tall grass",
    "to look at the clouds",
    "to read books",
    "to jump in puddles",
    "to draw pictures",
    "to count the stars",
    "to dance in the rain",
    "to listen to stories",
    "to play outside",
    "to pick flowers",
    "to watch the birds",
)
COLORS = ("red", "blue", "yellow", "green", "white", "orange", "purple")
TOYS = ("ball", "kite", "toy boat", "drum", "teddy bear", "toy train", "doll", "scarf", "hat", "bell")
FOODS = ("apple pie", "warm bread", "berries", "honey cake", "cookies", "soup", "pancakes", "sweet plums")
PLACES = (
    "the park",
    "the garden",
    "the beach",
    "the forest",
    "the meadow",
    "the old bridge",
    "the river",
    "the hill",
)
PARENTS = ("mom", "dad", "grandma", "grandpa")
TIMES = (
    "One day",
    "One morning",
    "One sunny afternoon",
    "One windy day",
    "On a warm spring day",
    "Early one morning",
    "One cold day",
    "One summer day",
)
GLAD = ("happy", "glad", "very happy", "so happy")
SAD = ("sad", "upset", "worried", "very sad")

OPENINGS: Step = (
    "Once upon a time, there was {a_hero} named {hero}.",
    "Once upon a time, there was {a_hero} named {hero} who lived {home}.",
    "Once upon a time, {a_hero} named {hero} lived {home}.",
    "There once was {a_hero} named {hero} who lived {home}.",
    "Long ago, {a_hero} named {hero} lived {home}.",
    "{hero} was {a_hero} who lived {home}.",
    "This is the story of {hero}, {a_hero} who lived {home}.",
)
CHARACTER: Step = (
    "",
    "{hero} loved {love}.",
    "{hero} was very {trait}, and {he} loved {love}.",
    "{he} was {trait}, and everyone liked {him}.",
    "Every day, {hero} liked {love}.",
)
GOODNIGHT: Step = (
    "",
    "That night, {hero} fell asleep with a [big|warm|happy] smile.",
    "It was the best day of all.",
    "{hero} [never forgot|always remembered] that day.",
)


@dataclass(frozen=True)
class Plot:
    """The moments of one story; a scene holds words that only make sense together."""

    steps: tuple[Step, ...]
    scenes: tuple[Slots, ...] = field(default=({},))


LOST_TOY = Plot(
    (
        (
            "{hero} had a {color} {toy}, and {he} took it everywhere.",
            "{his} favorite thing was a {color} {toy}.",
            "For {his} birthday, {hero} got a {color} {toy} from {his} {parent}.",
        ),
        (
            "{time}, {he} could not find it.",
            "{time}, the {toy} was gone.",
            "{time}, {hero} lost the {toy} near {place}.",
        ),
        (
            "",
            "{he} looked under the [bed|table|chair] and behind the [door|box], but it was not there.",
            "{hero} felt {sad} and began to cry.",
            '"Where is my {toy}?" asked {hero}.',
        ),
        (
            '"Do not be sad," said {his} friend {friend}. "We can look for it together."',
            '{his} friend {friend} came by and said, "I will help you find it."',
        ),
        (
            "They walked to {place} and looked [all around|everywhere].",
            "They looked and looked until {friend} saw something {color} in the [grass|leaves|mud].",
            "",
        ),
        (
            "At last, {friend} found the {toy} [under a bush|behind a rock|in the tall grass].",
            "Soon, {hero} saw the {color} {toy} [under a bush|behind a rock|by the path].",
        ),
        (
            '"Thank you, {friend}!" said {hero}, and {he} gave {f_him} a big hug.',
            "{hero} was {glad} and shared the {toy} with {friend}.",
            "They played with the {toy} until the sun went down.",
        ),
    )
)

NEW_FRIEND = Plot(
    (
        (
            "",
            "But {hero} had no one to play with.",
            "{hero} often felt lonely and wished for a friend.",
        ),
        (
            "{time}, {hero} met {a_friend} named {friend} at {place}.",
            "{time}, {he} went to {place} and saw {a_friend} named {friend}.",
        ),
        (
            "",
            "{friend} was sitting alone and looked {sad}.",
            "{friend} was too shy to say hello.",
            "At first, {friend} hid behind a [tree|rock|bush].",
        ),
        (
            '"Hello, my name is {hero}," said {hero}. "Do you want to play with me?"',
            '"Would you like to play?" asked {hero} with a smile.',
            'So {hero} waved and said, "Come and play with me!"',
        ),
        (
            "",
            '"Yes, please!" said {friend}.',
            "{friend} smiled and said yes.",
            "{friend} nodded, and soon they were both laughing.",
        ),
        (
            "",
            "They [played games|ran and jumped|told funny stories] until the sun went down.",
            "They shared some {food} and [sang a song|told funny stories].",
        ),
        (
            "From that day on, {hero} and {friend} were the best of friends.",
            "After that, {hero} was never lonely again.",
        ),
    )
)

AFRAID = Plot(
    (
        (
            "{hero} was afraid of {fear}.",
            "There was one thing {he} did not like, and that was {fear}.",
        ),
        ("{when}, {hero} {sign} and {hid}.",),
        (
            "",
            '"What is wrong?" asked {his} {parent}.',
            "{his} {parent} came and sat down next to {him}.",
        ),
        ("", '"I am afraid of {fear}," said {hero}.', "{hero} told {his} {parent} about {fear}."),
        ('{his} {parent} held {his} hand and said, "{comfort}."', '"{comfort}," said {his} {parent} softly.'),
        (
            "{hero} took a deep breath and {act}.",
            "Slowly, {hero} {act}.",
        ),
        (
            "",
            "It was not so bad after all, and {hero} felt brave.",
            "After that, {hero} was not afraid anymore.",
            "{hero} learned that it is okay to be afraid and to ask for help.",
        ),
    ),
    (
        {
            "fear": "the dark",
            "when": "[One night|Late one night]",
            "sign": "saw a strange shadow on the wall",
            "hid": "hid under the blanket",
            "comfort": "The dark is only the day with its eyes closed",
            "act": "looked at the shadow again, and it was only a [chair|coat|tree]",
        },
        {
            "fear": "thunder",
            "when": "[One night|One rainy evening]",
            "sign": "heard a loud boom",
            "hid": "hid under the bed",
            "comfort": "The clouds are only playing the drums",
            "act": "listened to the storm and counted to ten",
        },
        {
            "fear": "deep water",
            "when": "{time}",
            "sign": "came to the lake",
            "hid": "hid behind a tree",
            "comfort": "We will go in together, one step at a time",
            "act": "put one foot in the water and then the other",
        },
        {
            "fear": "the tall bridge",
            "when": "{time}",
            "sign": "came to the river",
            "hid": "would not take another step",
            "comfort": "Look at me and not at the water",
            "act": "walked across the bridge without looking down",
        },
    ),
)

SHARING = Plot(
    (
        (
            "{time}, {his} {parent} gave {him} some {food}.",
            "{time}, {hero} took some {food} and went to {place}.",
            "{time}, {hero} packed some {food} for a picnic.",
        ),
        (
            "It smelled so good that {he} could not wait to eat.",
            "{he} sat down [under a tree|in the sun] to eat.",
            "",
        ),
        (
            "Then {he} saw {a_friend} named {friend} who looked very hungry.",
            "Then {a_friend} named {friend} came by and sat down with a sigh.",
        ),
        (
            "",
            '"I have not eaten all day," said {friend}.',
            '"I am so hungry," said {friend}. "May I have a little?"',
            '"That smells so good," said {friend}.',
        ),
        (
            "{hero} wanted to keep it all, but {he} thought about {friend}.",
            "{hero} looked at the food and then at {friend}.",
            "",
        ),
        (
            '"Here, you can have half of mine," said {hero}.',
            "So {hero} gave half of it to {friend}.",
            '"Let us eat together," said {hero}.',
        ),
        (
            "",
            "{friend} ate it all up and said thank you.",
            "They ate together and talked until the food was gone.",
            '"You are a good friend," said {friend}.',
        ),
        (
            "{hero} learned that food tastes better when you share it.",
            "The next day, {friend} brought {food2} to share with {hero}.",
            "{hero} was {glad} because sharing made them friends.",
        ),
    )
)

BUILDING = Plot(
    (
        ("{time}, {hero} wanted to build {thing}.", '{time}, {hero} said, "I am going to build {thing}!"'),
        ("", "{he} found {parts} and started to work.", "{he} went to get {parts}."),
        ("{he} worked all [day|morning], but then {mishap}.", "When it was almost done, {mishap}."),
        ("{hero} felt {sad} and wanted to give up.", '"Oh no!" cried {hero}.', ""),
        (
            "",
            '"Do not give up," said {his} {parent}. "Try again, and go slowly."',
            "{his} friend {friend} came to help {him}.",
            '"We can try again together," said {friend}, who was {his} friend.',
        ),
        ("So {hero} tried again, and this time {fix}.", "{hero} started over, and {fix}."),
        ("At last, it was done, and {use}.", "Now it was strong, and {use}."),
        (
            "",
            "{hero} was {glad} that {he} did not give up.",
            "{hero} learned to keep trying.",
            "Everyone clapped for {hero}.",
        ),
    ),
    (
        {
            "thing": "a tall tower",
            "parts": "a box of wooden blocks",
            "mishap": "the tower fell down with a crash",
            "fix": "{he} put the biggest blocks at the bottom",
            "use": "the tower was taller than {hero}",
        },
        {
            "thing": "a little boat",
            "parts": "some wood and a piece of rope",
            "mishap": "water came in and the boat sank",
            "fix": "{he} closed every hole",
            "use": "the boat sailed across the pond",
        },
        {
            "thing": "a tree house",
            "parts": "some boards and a bag of nails",
            "mishap": "the wind blew the roof away",
            "fix": "{he} tied the roof down with a rope",
            "use": "there was room inside for two",
        },
        {
            "thing": "a sand castle",
            "parts": "a bucket and a shovel",
            "mishap": "a big wave washed it away",
            "fix": "{he} moved away from the water",
            "use": "the castle had a flag on top",
        },
        {
            "thing": "a snowman",
            "parts": "a carrot and an old hat",
            "mishap": "the head rolled off",
            "fix": "{he} made the head much smaller",
            "use": "the snowman seemed to smile",
        },
    ),
)

RAIN = Plot(
    (
        (
            "{time}, {hero} wanted to go to {place}, but it began to rain.",
            "{time}, {hero} was on the way to {place} when big drops of rain fell from the sky.",
        ),
        (
            "",
            '"Now I cannot play outside," said {hero}.',
            "{hero} sat by the window and felt {sad}.",
            "{hero} went home with wet feet.",
        ),
        (
            '"I have an idea," said {his} {parent}. "Let us {indoors}."',
            '"The flowers need the rain," said {his} {parent}.',
            "{his} {parent} gave {him} [a cup of warm milk|a big yellow coat|a book with many pictures].",
        ),
        ("They laughed and listened to the rain.", "The rain went tap, tap, tap on the roof.", ""),
        (
            "Soon, the rain stopped and the sun came out.",
            "After a while, the clouds went away.",
        ),
        (
            "{hero} went outside and saw a rainbow over {place}.",
            "{hero} put on {his} boots and jumped in [every puddle|the biggest puddle].",
        ),
        (
            "",
            '"Rainy days can be fun too!" said {hero}.',
            "{hero} was {glad} that it had rained.",
        ),
    ),
    ({"indoors": "[bake some {food}|read a book|paint a picture|make paper boats]"},),
)

GIFT = Plot(
    (
        (
            "{time}, it was the birthday of {his} {parent}.",
            "{his} {parent} had a birthday the next day.",
        ),
        (
            "",
            "{hero} wanted to give {his} {parent} something nice, but {he} had no money.",
            "{hero} did not know what to give.",
        ),
        (
            "",
            '"You can make something," said {his} friend {friend}.',
            '"What should I do?" {he} asked {his} friend {friend}.',
            "{he} thought and thought, and then {he} had an idea.",
        ),
        (
            "So {hero} picked [flowers|some pretty leaves] from {place} and tied them with a {color} ribbon.",
            "So {hero} painted a picture of {place} with [a big sun|many flowers] in it.",
            "So {hero} found a smooth stone at {place} and painted it {color}.",
            "So {hero} made a card and drew a {color} heart on it.",
        ),
        (
            "{he} hid it under the [bed|table] until it was time.",
            "It looked [lovely|very pretty].",
            "",
        ),
        (
            '"Happy birthday!" said {hero}, and {he} held out the gift.',
            "When {his} {parent} saw the gift, there was a big smile.",
        ),
        (
            "",
            '"This is the best gift I ever got," said {his} {parent}.',
            '"You made this for me?" asked {his} {parent}. "I love it!"',
        ),
        (
            "{hero} learned that a gift from the heart is the best gift.",
            "They hugged, and then they ate some {food}.",
        ),
    )
)

RESCUE = Plot(
    (
        (
            "{time}, {hero} heard a small voice near {place}.",
            "{time}, {hero} was walking to {place} when {he} heard a cry.",
        ),
        ('"Help me!" cried the voice.', "{he} stopped and listened.", ""),
        (
            "It was {a_friend} named {friend}, and {f_he} was {stuck}.",
            "{he} saw {a_friend} named {friend} {stuck}.",
        ),
        (
            "",
            '"Do not worry, I will help you," said {hero}.',
            '"Stay still, and I will get you out," said {hero}.',
        ),
        ("{hero} {rescue}.", "{hero} thought for a moment, and then {he} {rescue}."),
        (
            "",
            "Soon, {friend} was safe.",
            "At last, {friend} was free again.",
        ),
        (
            "",
            '"Thank you, {hero}!" said {friend}. "You are very brave."',
            "{friend} gave {hero} a big hug.",
            "{friend} was {glad} and thanked {hero}.",
        ),
        (
            "From then on, {hero} and {friend} were good friends.",
            "{hero} was proud that {he} had helped someone.",
        ),
    ),
    (
        {"stuck": "stuck in a deep hole", "rescue": "found a long rope and pulled as hard as {he} could"},
        {"stuck": "stuck in the mud", "rescue": "put a long branch across the mud"},
        {"stuck": "stuck high up in a tree", "rescue": "leaned a ladder on the tree and climbed up"},
        {"stuck": "lost in the fog", "rescue": "rang a bell so that {friend} could find the way"},
        {"stuck": "stuck under a fallen branch", "rescue": "pushed the branch until it rolled away"},
    ),
)

LEARNING = Plot(
    (
        (
            "{hero} wanted to learn how to {skill}.",
            "All of {his} friends could {skill}, but {hero} could not.",
        ),
        ("{time}, {he} tried for the first time, but {mishap}.", "{time}, {he} tried, but {mishap}."),
        ('"I will never learn this," said {hero}.', "{hero} felt {sad}.", ""),
        (
            "",
            '"Everyone needs to practice," said {his} {parent}.',
            '"I will show you how," said {his} {parent}. "{tip}."',
            '"{tip}," said {his} friend {friend}.',
        ),
        (
            "So {hero} practiced every day.",
            "{hero} tried again and again.",
            "Every morning, {he} practiced a little more.",
        ),
        ("Then one day, {success}.", "At last, {success}."),
        (
            "",
            '"I did it!" shouted {hero}.',
            "{hero} was so proud that {he} laughed out loud.",
            "{his} {parent} clapped and cheered.",
        ),
        ("{hero} learned that practice takes time.", ""),
    ),
    (
        {
            "skill": "swim",
            "mishap": "{he} got water in {his} nose",
            "tip": "Kick your legs and stay calm",
            "success": "{hero} swam all the way across the pond",
        },
        {
            "skill": "ride a bike",
            "mishap": "{he} fell into a bush",
            "tip": "Look far ahead and keep going",
            "success": "{hero} rode all the way down the road",
        },
        {
            "skill": "whistle",
            "mishap": "only air came out",
            "tip": "Make your lips round and blow softly",
            "success": "a clear sound came out",
        },
        {
            "skill": "skate on the ice",
            "mishap": "{he} sat down with a bump",
            "tip": "Bend your knees and take small steps",
            "success": "{hero} went around the pond without falling",
        },
        {
            "skill": "play the drum",
            "mishap": "it was only a lot of noise",
            "tip": "Count to four and listen",
            "success": "{hero} played a whole song",
        },
    ),
)

SEED = Plot(
    (
        (
            "{time}, {hero} found a [tiny|strange|little] seed at {place}.",
            "{time}, {his} {parent} gave {him} a [tiny|round|little] seed.",
        ),
        (
            "{he} put it in the ground and gave it some water.",
            "{hero} dug a hole, dropped the seed in and covered it up.",
        ),
        (
            "",
            "Every day, {he} came to look, but nothing happened.",
            "{hero} waited and waited, but nothing came up.",
        ),
        (
            "",
            '"Why does it not grow?" asked {hero}.',
            '"Maybe it is a bad seed," said {hero}.',
        ),
        (
            "",
            '"Good things take time," said {his} {parent}.',
            '"Wait a little longer," said {his} {parent}. "The seed is still asleep."',
            '"Give it water and sun," said {his} friend {friend}.',
        ),
        (
            "Then one morning, {hero} saw a [tiny green leaf|small green plant].",
            "After many days, a [tiny green leaf|small green plant] came up.",
        ),
        ("It grew and grew until it was {grown}.",),
        (
            "",
            "{hero} was {glad} that {he} had waited.",
            "{hero} learned to be patient.",
            "Bees and birds came to visit, and {hero} was {glad}.",
        ),
    ),
    ({"grown": "[a tall sunflower|a bush full of berries|a big {color} flower|a small apple tree]"},),
)

MISTAKE = Plot(
    (
        (
            "{time}, {hero} was playing with a {color} {toy} inside the house.",
            "{time}, {hero} was running around the kitchen.",
        ),
        (
            "{he} bumped into the table, and {broken}.",
            "There was a loud crash, and {broken}.",
        ),
        (
            "",
            "{hero} was {sad} and wanted to hide.",
            '"Oh no, what have I done?" said {hero}.',
            "{he} thought about running away.",
        ),
        (
            "",
            "Then {his} {parent} came in and asked what had happened.",
            '"What was that noise?" asked {his} {parent}.',
        ),
        (
            '"It was me, and I am sorry," said {hero}.',
            "{hero} took a deep breath and told {his} {parent} the truth.",
        ),
        (
            '"Thank you for telling the truth," said {his} {parent}.',
            '"I am not angry," said {his} {parent}. "I am glad that you told me."',
        ),
        (
            "",
            "Together, they {fix}.",
            "Then they {fix}.",
        ),
        (
            "{hero} learned that it is good to tell the truth.",
            "{hero} felt much better after that.",
        ),
    ),
    (
        {"broken": "the blue cup fell and broke", "fix": "picked up the pieces and glued the cup"},
        {"broken": "the milk spilled on the floor", "fix": "cleaned the floor and had some {food}"},
        {"broken": "the flower pot broke", "fix": "put the flower in a new pot"},
        {"broken": "the paint went all over the wall", "fix": "washed the wall until it was clean"},
    ),
)

NIGHT_SKY = Plot(
    (
        (
            "One night, {hero} could not sleep.",
            "One night, {hero} looked out of the window and saw a bright star.",
        ),
        (
            '"Why is the moon so [big|bright|round]?" {he} asked {his} {parent}.',
            '"How many stars are there?" {he} asked {his} {parent}.',
            '"Where does the sun sleep?" {he} asked {his} {parent}.',
        ),
        (
            "",
            '"Let us go and see," said {his} {parent}.',
            '"That is a good question," said {his} {parent}.',
        ),
        (
            "They took a blanket and walked to {place}.",
            "They sat on the roof and looked up.",
            "They lay down in the grass and looked at the sky.",
        ),
        (
            "The moon was shining, and everything was quiet.",
            "They counted the stars and ate some {food}.",
            "A star fell from the sky, and {hero} made a wish.",
        ),
        ('"It is so pretty," said {hero}.', "An owl called from far away.", ""),
        (
            "Soon, {hero} closed {his} eyes and dreamed of [the moon|the stars|flying].",
            "{his} {parent} carried {him} home to bed.",
        ),
    )
)

WIND = Plot(
    (
        (
            "{time}, {hero} went to {place} with a {color} [hat|scarf|kite|balloon].",
            "{time}, {hero} had a new {color} [hat|scarf|kite|balloon].",
        ),
        (
            "Suddenly, a strong wind came and blew it away.",
            "Whoosh, the wind took it and carried it into the sky.",
        ),
        (
            "",
            '"Come back!" shouted {hero}, and {he} ran after it.',
            "{hero} ran and ran, but the wind was too fast.",
        ),
        (
            "",
            "It flew over {place} and landed [on a roof|in a tree|in the river].",
            "It flew higher and higher until {he} could not see it.",
        ),
        (
            "Then {he} met {a_friend} named {friend}.",
            "{a_friend} named {friend} saw it all and came to help.",
        ),
        (
            '"Is this yours?" asked {friend}.',
            '"Look what the wind gave me," said {friend}. "I think it is yours."',
        ),
        (
            "",
            '"Yes, thank you!" said {hero}.',
            "{hero} was {glad} to have it back.",
        ),
        (
            "",
            "They went home together and ate some {food}.",
            "The wind had brought {hero} a new friend.",
        ),
    )
)

PLOTS = (
    LOST_TOY,
    NEW_FRIEND,
    AFRAID,
    SHARING,
    BUILDING,
    RAIN,
    GIFT,
    RESCUE,
    LEARNING,
    SEED,
    MISTAKE,
    NIGHT_SKY,
    WIND,
)

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_END = re.compile(r'[.!?]"?(?= ["A-Z]|$)')


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _character(rng: random.Random, *, she: bool) -> tuple[str, str]:
    """Return a name and what its bearer is, e.g. ("Mia", "a small fox")."""
    kind = rng.choice(ANIMALS) if rng.random() < 0.5 else ("girl" if she else "boy")
    return rng.choice(SHE_NAMES if she else HE_NAMES), _with_article(f"{rng.choice(SIZES)} {kind}")


def _cast(rng: random.Random) -> Slots:
    """Draw what stays the same through a story.

    Hero and friend never share a pronoun, so that "he" and "she" always have one reading.
    """
    she = rng.random() < 0.5
    hero, a_hero = _character(rng, she=she)
    friend, a_friend = _character(rng, she=not she)
    food, food2 = rng.sample(FOODS, 2)
    slots = {"hero": hero, "a_hero": a_hero, "friend": friend, "a_friend": a_friend}
    slots |= {"he": "she", "him": "her", "his": "her"} if she else {"he": "he", "him": "him", "his": "his"}
    slots |= {"f_he": "he", "f_him": "him"} if she else {"f_he": "she", "f_him": "her"}
    slots |= {"food": food, "food2": food2}
    words = {
        "trait": TRAITS,
        "home": HOMES,
        "love": LOVES,
        "color": COLORS,
        "toy": TOYS,
        "place": PLACES,
        "parent": PARENTS,
        "time": TIMES,
        "glad": GLAD,
        "sad": SAD,
    }
    return slots | {slot: rng.choice(options) for slot, options in words.items()}


def _fill(pattern: str, slots: Slots, rng: random.Random) -> str:
    """Fill slots and draw alternatives until none is left; a slot's text may hold more of both."""
    while "{" in pattern or "[" in pattern:
        pattern = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), pattern)
        pattern = _SLOT.sub(lambda found: slots[found[1]], pattern)
    return pattern[:1].upper() + pattern[1:]


def sentences_in(story: str) -> int:
    """Count sentences; a quotation and its "said" are one."""
    return len(_SENTENCE_END.findall(story))


def _draft(rng: random.Random) -> str:
    plot = rng.choice(PLOTS)
    slots = _cast(rng) | rng.choice(plot.scenes)
    steps = (OPENINGS, CHARACTER, *plot.steps, GOODNIGHT)
    detail = rng.uniform(0.1, 0.9)  # some stories are told briefly, some at length
    kept = [step for step in steps if "" not in step or rng.random() < detail]
    return " ".join(_fill(rng.choice([words for words in step if words]), slots, rng) for step in kept)


def tell(rng: random.Random) -> str:
    """Tell one story of four to eight sentences."""
    while True:
        story = _draft(rng)
        if FEWEST_SENTENCES <= sentences_in(story) <= MOST_SENTENCES:
            return story


def stories(seed: int) -> Iterator[str]:
    """Yield stories without end, always the same ones for one seed."""
    rng = random.Random(seed)
    while True:
        yield tell(rng)


if __name__ == "__main__":
    for _, example in zip(range(20), stories(seed=1), strict=False):
        print(example, end="\n\n")
