"""The sprites: emoji of Noto Color Emoji with plain English names, ordered so that a prefix is a good vocabulary.

Their pictures, in this and other styles, are in `atlas.py`.
The first twenty differ from each other in outline and in colour; a model that knows few sprites should know these.
"""

from __future__ import annotations

_LIST = """
cat 🐱, house 🏠, apple 🍎, rocket 🚀, tree 🌳, fish 🐟, sunflower 🌻, mushroom 🍄, car 🚗, star ⭐,
umbrella ☂, frog 🐸, penguin 🐧, pizza 🍕, cactus 🌵, butterfly 🦋, octopus 🐙, guitar 🎸, heart ❤, dog 🐶,
balloon 🎈, pumpkin 🎃, banana 🍌, panda 🐼, bicycle 🚲, strawberry 🍓, soccer ball ⚽, turtle 🐢, cake 🎂,
sailboat ⛵, pig 🐷, lion 🦁, fox 🦊, rabbit 🐰, bear 🐻, mouse 🐭, monkey 🐵, cow 🐮, tiger 🐯, koala 🐨,
unicorn 🦄, chick 🐤, owl 🦉, eagle 🦅, duck 🦆, rooster 🐓, parrot 🦜, flamingo 🦩, peacock 🦚, swan 🦢,
bee 🐝, ladybug 🐞, ant 🐜, spider 🕷, snail 🐌, caterpillar 🐛, scorpion 🦂, crab 🦀, lobster 🦞, shrimp 🦐,
squid 🦑, whale 🐳, dolphin 🐬, shark 🦈, seal 🦭, crocodile 🐊, snake 🐍, lizard 🦎, dinosaur 🦖, dragon 🐲,
elephant 🐘, giraffe 🦒, zebra 🦓, camel 🐫, kangaroo 🦘, hedgehog 🦔, bat 🦇, sheep 🐑, goat 🐐, horse 🐴,
deer 🦌, squirrel 🐿, otter 🦦, sloth 🦥, wolf 🐺, pear 🍐, tangerine 🍊, lemon 🍋, watermelon 🍉,
bunch of grapes 🍇, cherry 🍒, peach 🍑, mango 🥭, pineapple 🍍, coconut 🥥, kiwi 🥝, tomato 🍅,
eggplant 🍆, avocado 🥑, broccoli 🥦, cucumber 🥒, carrot 🥕, corn cob 🌽, chili pepper 🌶, potato 🥔,
onion 🧅, garlic 🧄, peanut 🥜, loaf of bread 🍞, croissant 🥐, pretzel 🥨, bagel 🥯, wedge of cheese 🧀,
egg 🥚, waffle 🧇, hamburger 🍔, hot dog 🌭, taco 🌮, sandwich 🥪, cookie 🍪, doughnut 🍩, cupcake 🧁,
candy 🍬, lollipop 🍭, ice cream 🍦, teapot 🫖, baby bottle 🍼, rose 🌹, tulip 🌷, cherry blossom 🌸,
pine tree 🌲, palm tree 🌴, clover 🍀, maple leaf 🍁, sun ☀, moon 🌙, cloud ☁, rainbow 🌈, snowflake ❄,
snowman ⛄, flame 🔥, planet 🪐, volcano 🌋, bus 🚌, truck 🚚, tractor 🚜, train 🚂, airplane ✈,
helicopter 🚁, ship 🚢, scooter 🛵, fire engine 🚒, ambulance 🚑, police car 🚓, anchor ⚓, castle 🏰,
tent ⛺, tower 🗼, church ⛪, ferris wheel 🎡, basketball 🏀, baseball ⚾, tennis racket 🎾, trophy 🏆,
medal 🏅, drum 🥁, trumpet 🎺, violin 🎻, piano 🎹, saxophone 🎷, microphone 🎤, television 📺, camera 📷,
telephone ☎, laptop 💻, alarm clock ⏰, hourglass ⏳, watch ⌚, light bulb 💡, candle 🕯, key 🔑, lock 🔒,
hammer 🔨, wrench 🔧, magnet 🧲, ladder 🪜, telescope 🔭, microscope 🔬, bell 🔔, gift 🎁, book 📖,
pencil ✏, paintbrush 🖌, envelope ✉, crown 👑, top hat 🎩, shirt 👕, dress 👗, shoe 👟, boot 👢, scarf 🧣,
backpack 🎒, ring 💍, gem 💎, chair 🪑, bed 🛏, door 🚪, bathtub 🛁, basket 🧺, bucket 🪣, broom 🧹,
teddy bear 🧸, robot 🤖, ghost 👻, alien 👽, kite 🪁, ball of yarn 🧶, puzzle piece 🧩, die 🎲, ticket 🎫,
snowboarder 🏂, skateboard 🛹
"""
_SPRITES: dict[str, str] = {}
for _entry in _LIST.replace("\n", " ").split(","):
    _name, _, _glyph = _entry.strip().rpartition(" ")
    _SPRITES[_name] = _glyph
SPRITES: dict[str, str] = _SPRITES  # name -> emoji, in order

FACES = frozenset(
    (
        "cat",
        "dog",
        "frog",
        "panda",
        "pig",
        "lion",
        "fox",
        "rabbit",
        "bear",
        "mouse",
        "monkey",
        "cow",
        "tiger",
        "koala",
        "unicorn",
        "dragon",
        "horse",
        "wolf",
        "robot",
        "alien",
    )
)


def choose_sprites(choice: int | tuple[str, ...]) -> tuple[str, ...]:
    """The first ``choice`` names of the list, or the given names once they are known to exist."""
    names = tuple(SPRITES)
    if isinstance(choice, int):
        if not 0 <= choice <= len(names):
            raise ValueError(f"sprites={choice}: choose between 0 and {len(names)}")
        return names[:choice]
    unknown = [name for name in choice if name not in SPRITES]
    if unknown:
        raise ValueError(f"unknown sprites {', '.join(unknown)}: choose from fourstroke.world.SPRITES")
    return tuple(choice)
