"""Appearance of the 35 classes of Pet Faces, used to draw the synthetic sample."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Breed:
    """Appearance of a breed.

    Attributes:
        ears: `point`, `round`, `fold`, `flop` or `bat`.
        muzzle: length, 0 (flat) to 1 (long).
        coat: base colour, RGB in 0–1.
        mark: colour of the pattern, RGB in 0–1.
        pattern: `solid`, `points`, `stripes`, `spots`, `blaze`, `saddle`, `mask` or `eyebrows`.
        eyes: colour of the iris, RGB in 0–1.
        fluff: raggedness of the outline, 0–1.
        width: width of the head divided by its height.
    """

    ears: str
    muzzle: float
    coat: tuple[float, float, float]
    mark: tuple[float, float, float]
    pattern: str
    eyes: tuple[float, float, float]
    fluff: float
    width: float = 1.0


WHITE, CREAM, TAN, RED, BROWN = (
    (0.93, 0.92, 0.9),
    (0.88, 0.8, 0.66),
    (0.76, 0.58, 0.38),
    (0.72, 0.42, 0.2),
    (0.4, 0.27, 0.18),
)
BLACK, GREY, BLUE, SILVER, PINK = (
    (0.13, 0.12, 0.13),
    (0.52, 0.51, 0.5),
    (0.42, 0.46, 0.53),
    (0.72, 0.72, 0.72),
    (0.85, 0.68, 0.62),
)
GREEN, AMBER, SKY, DARK = (0.45, 0.62, 0.25), (0.8, 0.55, 0.12), (0.35, 0.6, 0.9), (0.22, 0.13, 0.08)

BREEDS: dict[str, Breed] = {
    "cat_Abyssinian": Breed("bat", 0.35, RED, BROWN, "solid", GREEN, 0.1, 0.95),
    "cat_Bengal": Breed("round", 0.35, TAN, BROWN, "spots", GREEN, 0.1, 1.0),
    "cat_Birman": Breed("point", 0.25, CREAM, BROWN, "points", SKY, 0.7, 1.1),
    "cat_Bombay": Breed("point", 0.25, BLACK, BLACK, "solid", AMBER, 0.1, 1.05),
    "cat_British": Breed("round", 0.2, BLUE, BLUE, "solid", AMBER, 0.35, 1.2),
    "cat_Egyptian": Breed("bat", 0.35, SILVER, BLACK, "spots", GREEN, 0.1, 0.95),
    "cat_Maine": Breed("point", 0.5, BROWN, BLACK, "stripes", GREEN, 0.9, 1.0),
    "cat_Persian": Breed("round", 0.0, CREAM, CREAM, "solid", AMBER, 1.0, 1.2),
    "cat_Ragdoll": Breed("point", 0.3, WHITE, GREY, "points", SKY, 0.7, 1.1),
    "cat_Russian": Breed("point", 0.35, BLUE, BLUE, "solid", GREEN, 0.15, 1.0),
    "cat_Siamese": Breed("bat", 0.45, CREAM, BLACK, "points", SKY, 0.05, 0.9),
    "cat_Sphynx": Breed("bat", 0.35, PINK, PINK, "solid", GREEN, 0.0, 0.9),
    "dog_american": Breed("fold", 0.6, WHITE, BROWN, "saddle", DARK, 0.1, 1.1),
    "dog_basset": Breed("flop", 0.8, TAN, WHITE, "blaze", DARK, 0.1, 0.95),
    "dog_beagle": Breed("flop", 0.65, RED, WHITE, "blaze", DARK, 0.1, 1.0),
    "dog_boxer": Breed("fold", 0.35, TAN, BLACK, "mask", DARK, 0.05, 1.05),
    "dog_chihuahua": Breed("bat", 0.35, TAN, TAN, "solid", DARK, 0.1, 1.0),
    "dog_english": Breed("flop", 0.7, WHITE, BLACK, "spots", DARK, 0.5, 1.0),
    "dog_german": Breed("flop", 0.75, BROWN, WHITE, "spots", AMBER, 0.2, 1.0),
    "dog_great": Breed("flop", 0.55, WHITE, WHITE, "solid", DARK, 0.8, 1.1),
    "dog_havanese": Breed("flop", 0.4, BLACK, WHITE, "saddle", DARK, 1.0, 1.1),
    "dog_japanese": Breed("flop", 0.15, WHITE, BLACK, "saddle", DARK, 0.8, 1.1),
    "dog_keeshond": Breed("point", 0.55, GREY, BLACK, "mask", DARK, 1.0, 1.1),
    "dog_leonberger": Breed("flop", 0.6, RED, BLACK, "mask", DARK, 0.8, 1.05),
    "dog_miniature": Breed("fold", 0.65, BLACK, TAN, "eyebrows", DARK, 0.1, 0.95),
    "dog_newfoundland": Breed("flop", 0.55, BLACK, BLACK, "solid", DARK, 0.8, 1.15),
    "dog_pomeranian": Breed("point", 0.35, RED, CREAM, "blaze", DARK, 1.0, 1.1),
    "dog_pug": Breed("fold", 0.05, CREAM, BLACK, "mask", DARK, 0.05, 1.15),
    "dog_saint": Breed("flop", 0.55, RED, WHITE, "blaze", DARK, 0.5, 1.15),
    "dog_samoyed": Breed("point", 0.55, WHITE, WHITE, "solid", DARK, 1.0, 1.15),
    "dog_scottish": Breed("point", 0.75, BLACK, BLACK, "solid", DARK, 0.9, 0.9),
    "dog_shiba": Breed("point", 0.55, RED, CREAM, "eyebrows", DARK, 0.4, 1.05),
    "dog_staffordshire": Breed("fold", 0.5, GREY, WHITE, "blaze", DARK, 0.0, 1.15),
    "dog_wheaten": Breed("fold", 0.6, CREAM, TAN, "eyebrows", DARK, 0.9, 1.0),
    "dog_yorkshire": Breed("point", 0.4, TAN, BLUE, "saddle", DARK, 0.9, 0.95),
}  # fmt: skip
