"""Short common words for signs and the fonts they are set in, by script; a stable hash holds some words out."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.graph import Split, is_held_out

SIGN_FONTS: dict[str, dict[str, str]] = {  # script -> name as captions say it -> file
    "latin": {
        "sans-serif": "DejaVuSans.ttf",
        "bold sans-serif": "DejaVuSans-Bold.ttf",
        "serif": "DejaVuSerif.ttf",
        "bold serif": "DejaVuSerif-Bold.ttf",
        "monospaced": "DejaVuSansMono-Bold.ttf",
    },
    "chinese": {"sans-serif": "NotoSansSC-Regular-subset.otf", "bold sans-serif": "NotoSansSC-Bold-subset.otf"},
}
SIGN_FONTS["cyrillic"] = SIGN_FONTS["latin"]
_LATIN = """
able acid acorn actor adult age agent air alarm album alive alley amber angel angle ankle apple april apron arch area
arena arm army arrow art ask atlas atom aunt autumn award axis baby back bag bake bakery ball bamboo banana band bank
bar bark barn base basil basin basket bath bay beach bead beam bean bear beard beat bed bee beef bell belt bench berry
best big bike bird birth black blade blank blend block bloom blue board boat body bold bone bonus book boot born boss
both bottle bowl box brain branch brave bread break brick bride bridge bright bring broom brown brush bubble bucket
build bulb bull bus bush busy butter button buzz cab cabin cable cactus cafe cage cake calm camel camera camp canal
candle candy canoe cap car card care carpet carrot cart carve case cash castle cat cave cell chain chair chalk charm
chart chat cheese chef cherry chess chest chick child chill chin choir chorus circle circus city clay clean clear
clerk clever cliff climb clock close cloth cloud clover clown club coach coal coast coat cocoa code coffee coin cold
comet comic cook cookie cool copper copy coral cork corn corner cotton couch count court cousin cover cow crab craft
crane cream creek crew crisp crop cross crow crowd crown cube cup curry curve dad dairy daisy dance dark dash data
date dawn day deal dear deep deer delta den desert desk diary dice diet dinner dish dive dock doctor dog doll donut
door dot dove draft dragon drama draw dream dress drift drill drink drive drop drum dry duck dune dust duty eagle ear
early earth east easy echo edge egg eight elbow elf elm empty end energy engine enjoy enter equal event every exit
extra eye fable face fact fair fairy faith fall family famous fan farm fast feast felt fence fern ferry fever few
field fifty fig film find fine finish fire first fish five flag flame flat fleet flight float flock floor flour flow
flower flute fly foam fog fold folk food foot forest fork form fort forty four fox frame free fresh friend frog front
frost fruit fudge fuel full fun funny fur future galaxy game garage garden garlic gate gear gem genius gentle giant
gift ginger girl give glad glass globe glove glow glue goal goat gold golf good goose grace grain grand grape grass
gravy great green grill grin group grow guard guess guest guide guitar habit hair half hall hammer hand happy harbor
hard hare harp hat hawk hay hazel head heart heat hedge hello help hen herb hero hide high hill hobby hockey hold hole
holly home honest honey hood hope horn horse hotel hour house hug humor hut ice icon idea idol igloo inch ink iris
iron island ivory ivy jacket jade jam jar jazz jeans jelly jewel job jog join joke jolly joy judge juice july jump
june jungle junior jury just kale keen keep kettle key kid kind king kite kitten kiwi knee knife knit knot koala label
lace ladder lake lamb lamp land lane laptop large laser last laugh lava lawn layer leaf learn left legend lemon lens
letter level life lift light lily lime line lion list little lobby local lock logic long look loop lotus loud love
loyal luck lunar lunch lung magic magnet mail main major mango maple marble march mark market mask match math maze
meadow meal medal melody melon menu merry metal mild mile milk mill mind mint minute mirror mist mitten mix model mom
money monkey month moon moral moss moth motor mouse movie mud muffin mug museum music myth nail name nap nature navy
near neat neck needle nest net never new news next nice night nine noble noise noodle noon north nose note novel
number nurse nut oak oasis oat ocean office oil old olive one onion open opera orange orbit orchid order organ otter
oven owl oxygen oyster paint pair palace palm panda pants paper parade parent park parrot part party pasta path patio
peace peach peak pear pearl pebble pen pencil people pepper petal phone photo piano pickle picnic pie pig pillow pilot
pine pink pipe pirate pizza place plain plan planet plant plate play plaza plum pocket poem poet point polar polite
pond pony pool pop poppy port post potato power press pretty pride prince print prize proud puddle pulse pump puppy
purple puzzle queen quest quick quiet quilt quiz rabbit race radar radio raft rain ranch rare raven reach read ready
real recipe red reef relax rest ribbon rice rich ride right ring river road roast robin robot rock rocket roof room
root rope rose round route royal ruby rug rule run rush saddle safari safe sail salad salmon salt sand sauce save
scarf school scout screen sea seal seat second secret seed shade shadow shape share shark sharp sheep shelf shell
shine ship shirt shoe shop shore short show shrimp sign silk silver simple sing sister six skate sketch ski skill skin
sky sleep slice slide slow small smart smile smoke smooth snack snail snow soap soccer sock sofa soft soil solar song
soul sound soup south space spark speed spice spider spin spoon sport spot spring square squash stage stair stamp star
start steam steel stem step stone stop storm story stove straw stream street strong studio sugar suit summer sun sunny
super surf swan sweet swift swim swing table taco tail talent tall tango taste taxi tea team ten tennis tent test
thank theme thick thin thing three tide tiger tile time tiny tire toast today toe tomato tool top torch total towel
tower town toy track trade trail train travel tree trick trio trip truck true trust tulip tuna tunnel turkey turn
turtle twelve twin two uncle under unit urban useful valley value van vanity velvet verse vest video view villa vine
violet violin visit vivid voice vote wagon walk wall walnut walrus warm wash watch water wave wax way web week west
whale wheat wheel white wide wild willow win wind window wing winter wise wish wolf wonder wood wool word work world
wrap yacht yard year yellow yes yoga young zebra zero zest zone zoo
airport almonds ancient antelope apricot aquarium archive avocado balcony balloon banquet bargain baseball bathroom
bedroom bicycle blanket blossom bonfire bouquet brother building cabinet caramel cardinal carnival cartoon century
chamber champion channel chapter charity chicken children chimney chipmunk cinnamon citizen classic climate climbing
coconut college compass computer concert corridor costume cottage country courage crystal cushion custard cyclist
daylight delicate designer dessert diamond dinosaur discount distance dolphin doorbell download drawing driving economy
elephant elevator envelope espresso evening example exchange exercise factory fashion feather festival fiction firefly
fireside fishing fitness football foreman forever fortune fountain freedom friendly gallery gardener gateway general
geometry giraffe glacier goldfish graphics gravity grocery hallway handmade harvest healthy heritage heroine history
holiday homemade horizon hospital iceberg identity industry infinity insight jasmine jewelery journey justice keyboard
kilogram kitchen language lantern laundry lavender leather lecture lemonade lettuce liberty library lighting lobster
machine magazine magician manager mandarin mansion marathon medicine mermaid message midnight million mineral monster
morning mountain mushroom mustard national natural notebook nothing november oatmeal october official optimist orchard
original ostrich outdoor package painter painting pancake panther paradise parking parsley passage passport pattern
peaceful peacock peanuts penguin perfect picture pilgrim pioneer plastic platform pleasure popcorn postbox postcard
potatoes pottery practice present princess printer program pudding pumpkin quality quarter question railroad rainbow
raincoat reading recital recycle reindeer research retreat romance romantic running sandbox sandwich schedule sculptor
seagull seashell seaside security segment service shelter shopping silence skating skeleton snowball snowman society
software soldier solution souvenir spinach squirrel stadium stairway standard starfish station student summary sunlight
sunrise sunshine surface surprise swimming symphony teacher teamwork teaspoon theater thunder together tomorrow tourist
tractor training treasure trolley tropical trumpet turbine twilight unicorn universe utility vacation vampire vanilla
variety veranda village vineyard vintage visitor vitamins volcano voltage waffles walking wardrobe warranty warrior
weather wedding welcome western whisper wildlife windmill windows woodland workout workshop yourself zeppelin
"""
WORDS: dict[str, tuple[str, ...]] = {"latin": tuple(_LATIN.split())} | {
    script: tuple((Path(__file__).parent / "assets" / f"{script}.txt").read_text("utf-8").split())
    for script in ("cyrillic", "chinese")
}


@functools.lru_cache(maxsize=64)
def choose_words(script: str, split: Split, max_length: int, characters: int = 0) -> tuple[str, ...]:
    """The words of a script with at most ``max_length`` letters that belong to ``split``.

    With `characters` above 0, only those made of the script's so many most frequent letters.
    """
    wanted, letters = split == "heldout", set(letters_of(script, characters))
    words = tuple(
        w for w in WORDS[script] if len(w) <= max_length and is_held_out("word", w) == wanted and set(w) <= letters
    )
    if not words:
        raise ValueError(f"no {split} words of at most {max_length} letters: raise max_word_length or characters")
    return words


def spell(rng: np.random.Generator, script: str, max_length: int, characters: int = 0) -> str:
    """One to ``max_length`` letters of a script by chance, each as likely as any other; of Chinese at most four."""
    letters = letters_of(script, characters)
    longest = min(max_length, 4) if script == "chinese" else max_length
    return "".join(pick(rng, letters) for _ in range(1 + int(rng.random() * longest)))


@functools.cache
def letters_of(script: str, characters: int = 0) -> tuple[str, ...]:
    """The letters of a script's words, in order; with `characters` above 0 only so many, the most frequent."""
    frequent = Counter("".join(WORDS[script])).most_common(characters or None)  # of equals, the first in the list
    return tuple(sorted(letter for letter, _ in frequent))
