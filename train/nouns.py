"""Things that captions name: families of words, what may be asked of them, and what forbids what.

A family is the name that questions use, with a colon, then words for the same or for a kind of
it: a caption with any of them has the family, and its name is always a right answer. Compounds are
written with ``_``. The families were chosen by how often Flickr8k and COCO name them.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.verbs import word_set

_TABLE = {
    "people": """
        man: man guy gentleman fellow dude fisherman cowboy groom policeman businessman
        woman: woman lady bride businesswoman ballerina bridesmaid   boy: boy schoolboy
        girl: girl schoolgirl cheerleader   baby: baby infant newborn
        child: child kid toddler
        person: person adult teenager teen youth player basketball_player baseball_player
            soccer_player football_player tennis_player hockey_player skier snowboarder
            skateboarder surfer swimmer climber rock_climber mountain_climber hiker biker
            dirt_biker cyclist bicyclist motorcyclist rider runner jogger racer skater dancer
            worker construction_worker musician guitarist singer performer artist photographer
            athlete gymnast goalie goalkeeper pitcher batter catcher umpire referee quarterback
            teammate opponent wrestler boxer soldier officer police_officer firefighter fireman
            cop clown chef cook waiter driver passenger pedestrian diver scuba_diver kayaker
            rafter wakeboarder student teacher doctor nurse mother father mom dad brother sister
            son daughter friend parent male female tourist vendor jockey acrobat drummer sailor
            monk someone somebody individual spectator onlooker fan model
    """,
    "animals": """
        dog: dog puppy pup hound greyhound poodle retriever golden_retriever labrador lab
            black_lab collie border_collie terrier german_shepherd shepherd dalmatian beagle
            bulldog pitbull doberman husky dachshund chihuahua corgi rottweiler boxer_dog doggy
            mutt canine sheepdog sheep_dog great_dane
        cat: cat kitten kitty   horse: horse pony foal mare stallion colt
        cow: cow calf bull cattle ox   sheep: sheep lamb ram   goat: goat
        bird: bird duck goose seagull gull pigeon swan parrot owl eagle hawk chicken_bird
            rooster hen pelican flamingo ostrich peacock turkey_bird heron
        elephant: elephant   giraffe: giraffe   zebra: zebra
        bear: bear polar_bear grizzly_bear brown_bear grizzly
        monkey: monkey ape chimpanzee gorilla   fish: fish   camel: camel
        deer: deer elk moose   pig: pig piglet   rabbit: rabbit   squirrel: squirrel
        turtle: turtle tortoise   lion: lion   tiger: tiger   snake: snake
        butterfly: butterfly
    """,
    "vehicles": """
        bike: bike bicycle mountain_bike bmx_bike tricycle
        motorcycle: motorcycle motorbike dirt_bike moped motor_bike   scooter: scooter
        unicycle: unicycle
        car: car race_car racecar taxi sedan limousine limo police_car sports_car convertible
        truck: truck pickup_truck fire_truck firetruck pickup monster_truck food_truck
            dump_truck
        bus: bus school_bus double_decker_bus   van: van minivan   jeep: jeep suv
        train: train subway_train locomotive
        boat: boat sailboat canoe kayak rowboat raft ship motorboat speedboat yacht ferry
            fishing_boat gondola
        airplane: airplane plane jet jet_plane jetliner aeroplane passenger_jet
        helicopter: helicopter   tractor: tractor   wagon: wagon   carriage: carriage
        stroller: stroller   wheelchair: wheelchair   sled: sled sleigh toboggan
        atv: atv four-wheeler quad_bike   golf_cart: golf_cart   shopping_cart: shopping_cart
    """,
    "sports": """
        ball: ball tennis_ball basketball football soccer_ball baseball volleyball beach_ball
            rugby_ball softball golf_ball
        frisbee: frisbee flying_disc   skateboard: skateboard skate_board
        snowboard: snowboard   surfboard: surfboard surf_board   skis: skis
        tennis_racket: tennis_racket tennis_racquet racket racquet   baseball_bat: baseball_bat
        kite: kite   trampoline: trampoline   hurdle: hurdle   guitar: guitar
        drum: drum   violin: violin   piano: piano   hula_hoop: hula_hoop
        parachute: parachute   tent: tent   swing: tire_swing swing_set
        slide: water_slide   paddle: paddle oar   balloon: balloon   stick: stick
        rope: rope
    """,
    "food": """
        pizza: pizza   cake: cake birthday_cake cupcake wedding_cake   sandwich: sandwich
        hot_dog: hot_dog hotdog   hamburger: hamburger burger cheeseburger
        donut: donut doughnut   banana: banana   apple: apple   orange: orange
        carrot: carrot   broccoli: broccoli   salad: salad   bread: bread
        soup: soup   rice: rice   ice_cream: ice_cream ice_cream_cone
        fries: fries french_fries   watermelon: watermelon   strawberry: strawberry
        coffee: coffee   wine: wine red_wine white_wine   beer: beer
    """,
    "furniture": """
        bed: bed bunk_bed   couch: couch sofa loveseat   toilet: toilet
        sink: sink   bathtub: bathtub bath_tub   refrigerator: refrigerator fridge
        stove: stove oven   microwave: microwave microwave_oven
        television: television tv flat_screen_tv television_set
        computer: computer laptop laptop_computer desktop_computer   bench: bench park_bench
        chair: chair armchair lawn_chair rocking_chair high_chair wheeled_chair stool recliner
        table: table picnic_table dining_table coffee_table   desk: desk
        umbrella: umbrella parasol   clock: clock clock_tower
        fire_hydrant: fire_hydrant hydrant   stop_sign: stop_sign
        traffic_light: traffic_light stop_light stoplight   parking_meter: parking_meter
        suitcase: suitcase   teddy_bear: teddy_bear   vase: vase   statue: statue sculpture
        fountain: fountain   bridge: bridge   waterfall: waterfall
    """,
    "clothes": """
        shirt: shirt t-shirt tee-shirt tshirt tank_top   jacket: jacket
        coat: coat   sweater: sweater sweatshirt hoodie   jersey: jersey
        vest: vest life_vest   life_jacket: life_jacket   dress: dress
        skirt: skirt   hat: hat cap baseball_cap cowboy_hat beanie swim_cap swimming_cap
        helmet: helmet hard_hat   wetsuit: wetsuit   swimsuit: swimsuit bathing_suit bikini
        uniform: uniform   scarf: scarf   wig: wig   collar: collar   leash: leash
        harness: harness   backpack: backpack   costume: costume   mask: mask
        sunglasses: sunglasses   glasses: glasses   goggles: goggles
        bag: bag shopping_bag plastic_bag purse handbag   tie: tie bow_tie necktie
        suit: suit business_suit tuxedo
    """,
    "things": """
        phone: phone cellphone cell_phone telephone   camera: camera video_camera
        book: book   newspaper: newspaper   bottle: bottle water_bottle
        cup: cup mug   bowl: bowl   plate: plate   toy: toy   flag: flag
        blanket: blanket   pillow: pillow   towel: towel   bucket: bucket
        basket: basket   box: box   flower: flower rose tulip   microphone: microphone
        cigarette: cigarette   pole: pole   sign: sign   doll: doll   broom: broom
        shovel: shovel   hose: hose   toothbrush: toothbrush   knife: knife
        fork: fork   spoon: spoon   remote: remote remote_control   scissors: scissors
        bone: bone   branch: branch tree_branch   log: log   tube: tube inner_tube innertube
        ladder: ladder   bubbles: bubbles
    """,
    "places": """
        snow: snow   beach: beach seashore   pool: pool swimming_pool kiddie_pool wading_pool
        mountain: mountain   ocean: ocean sea   lake: lake   river: river stream creek
        forest: forest woods   desert: desert
    """,
    "scenery": """
        water: water   grass: grass lawn   sand: sand   mud: mud   dirt: dirt
        leaves: leaves   field: field meadow pasture grassy_field
        street: street road city_street dirt_road   sidewalk: sidewalk
        path: path trail dirt_path   wall: wall brick_wall rock_wall climbing_wall
        fence: fence   tree: tree palm_tree   rock: rock boulder   cliff: cliff
        hill: hill   wave: wave   ramp: ramp skateboard_ramp skate_ramp
        rail: rail railing handrail   stairs: stairs steps staircase   dock: dock pier
        puddle: puddle   pond: pond   building: building house   window: window
        door: door   counter: counter   shelf: shelf   floor: floor   tunnel: tunnel
        park: park skate_park skatepark playground amusement_park   track: track race_track
        court: court tennis_court basketball_court   sky: sky   air: air midair mid-air
        wind: wind   room: room living_room dining_room bedroom bathroom kitchen
        crowd: crowd   group: group team band family couple
    """,
}
# Only what photographers rarely leave unsaid is asked for by yes and no: a shirt or a tree is in
# many photos whose captions do not name it.
ASKED_FOR = word_set("people animals vehicles sports food furniture places")
COLOURED = frozenset({"animals", "vehicles", "sports", "furniture", "clothes", "things"})
COUNTED = frozenset({"animals", "vehicles", "sports", "food", "furniture"})
MASS = word_set("""snow broccoli salad bread soup rice coffee wine beer water grass sand mud dirt
    pizza ice_cream wind sky air""")
PAIRS = word_set("skis fries sunglasses glasses goggles scissors leaves stairs bubbles")
# A family asked for by yes and no is one that stands out; these do not always.
NOT_ASKED = word_set("stick rope paddle coffee rice bread group crowd")
_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "goose": "geese",
    "foot": "feet", "mouse": "mice", "calf": "calves", "ox": "oxen", "fish": "fish",
    "knife": "knives", "shelf": "shelves", "scarf": "scarves", "cattle": "cattle",
    "sheep": "sheep", "deer": "deer", "moose": "moose", "loaf": "loaves",
}  # fmt: skip


@dataclass(frozen=True)
class Noun:
    """A word for a thing, as it may stand in a caption.

    Attributes
    ----------
    family : str
        Name of its family, with ``_`` between words.
    category : str
        Of the family.
    singular : str
        The word, with spaces.
    plural : bool
        Whether this form is the plural.
    """

    family: str
    category: str
    singular: str
    plural: bool


def plural(word: str) -> str:
    """The plural of a noun, or of a compound's last word."""
    head, gap, last = word.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man") and last != "human":
        last = last[:-2] + "en"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    else:
        last += "s"
    return head + gap + last


def _families() -> dict[str, tuple[str, list[str]]]:
    found: dict[str, tuple[str, list[str]]] = {}
    for category, text in _TABLE.items():
        for token in text.split():
            if token.endswith(":"):
                name = token[:-1]
                found[name] = (category, [])
            else:
                found[name][1].append(token.replace("_", " "))
    return found


FAMILIES = _families()  # name -> (category, its words)
LEXICON: dict[tuple[str, ...], Noun] = {}
for _name, (_category, _words) in FAMILIES.items():
    for _word in _words:
        if _name not in MASS and _name not in PAIRS:
            LEXICON[tuple(plural(_word).split())] = Noun(_name, _category, _word, True)
        if plural(_word) != _word or _name in MASS:
            LEXICON[tuple(_word.split())] = Noun(_name, _category, _word, _name in PAIRS)
