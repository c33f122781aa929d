"""Characters of many scripts as small images, drawn from the fonts that matplotlib ships.

What decides an image is the outline in the font file: outlines are read unhinted, in the units in which they
were designed, and filled here. matplotlib's own drawing of text, which changes with its versions and those of
FreeType, has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evometa.errors import TaskError
from evometa.rng import numpy_generator
from evometa.tasks.base import Split
from evometa.tasks.pools import POOL_SEED

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: The classes: characters of each script, and the scripts of each split. Left out is whatever looks like an
#: earlier character of this or another script once both fill the image: one of A, Greek Α and Cyrillic А at
#: most, c or C, no accents. Chosen by correlation of the images, then by eye.
SCRIPTS: dict[Split, dict[str, str]] = {
    "meta_train": {
        "Latin": (
            "FHKMNPRSWYZacdekmqrÆÐÞæŁŊŒƁƃƄƇƊƑƓƛƜƝƢƣƤƦƧƪƫƭƴƷƸƺƾǶǷȜȡȢȤȴȵȸȹȺȻȾȿɀɁɃɄɆɇɍɕɗɘɚ"
            "ɝɠɣɧɬɮɱɲɷɹɻɽɾʁʂʆʇʉʊʍʎʐʑʓʕʙʞʤʦʧʨʩʪʫʬʭʮ"
        ),
        "Greek": "ΞΨΩαβζμπςσφχωϗϘϚϞϟϠϡ϶ϼ",
        "Cyrillic": "ЂЉЊЋЏДЖЛУЦЧЩЪЫЮЯђћѣѤѦѨѪѬѮѸѻѼѾ҂ҊҐҔҘҚҠҢҤҦҨҲҴҶҼӄӅӇӍӶӺӽӿ",
        "Canadian Aboriginal": "ᐅᐊᐳᐸᑕᑧᑨᑩᑪᒐᓀᓂᓄᓇᓓᓕᓗᓚᓭᓯᔐᔑᔓᔕᔦᔨᔪᔭᕈᕊᕋᕍᕗᕙᕞᕠᕤᕴᕵᕷᕹᕿᖁᖃᖊᖋᖌᖍᖠᖢᖤᖬᗡᙯ",
        "symbols": (
            "←→↖↗↘↙↜↝↫↬↰↱↳↵↶↷↸↹↺↼↽⇄⇈⇊⇋⇌⇖⇗⇘⇙⇡⇣⇦⇧⇨⇱⇲⇶∈∋∓∔∕√∜∝∠∸∹∼∽∿≂≃≅≆≍≎≐≓≗≛≣≤≥≦≧≨≩≪≫≺≻≼≽⊆⊇⊊⊋⊗"
            "⊞⊠⊢⊣⊥⊨⊩⊪⊫⊰⊱⊴⊵⊹⊿▤▥▭▱▲▶▽◀◌◎◐◑◒◓◔◕◜◝◟◠◢◣◤◥◧◨◫◬◭◮◴◶◸◹◺◿☉☊☋☍☑☘☢☣☧☪☭☯☺☼☿♂♃♅♈♊♋♌♍♎♏♑♩♪"
            "♫♬♭♮"
        ),
    },
    "meta_valid": {
        "Armenian": "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՃՄՅՆՇՉՊՋՌՎՐՒՔՖադեզէըթիլխկճմյշչպջռվրցփֆ",
        "Lao": "ກຂງຈຊຍດຕຖທນປຜຝພມຣລສອຮຯ",
    },
    "meta_test": {
        "Hebrew": "אבגדהוזחטךכלםמנעףפץצקרשת",
        "Arabic": "ءبةتثجخدذرزسشطعغفقكلمنهوىيٻټځڈډڋڑړڕڡڤڥڨکڪڭڮگڲڳڵڸڹںڻھۆێ",
        "Tifinagh": "ⴱⴳⴴⴶⴷⴸⴹⴺⴻⴼⴽⴾⴿⵀⵁⵃⵄⵅⵆⵇⵈⵉⵊⵋⵌⵍⵎⵐⵒⵓⵔⵕⵖⵗⵘⵚⵛⵜⵝⵞⵠⵡⵢⵣⵤⵥ",
        "N'Ko": "ߍߎߏߐߑߒߓߔߕߖߗߘߙߚߜߝߞߟߢߤߥ",
        "Georgian": "ႠႡႢႣႥႦႧႩႪႫႬႮႰႲႴႵႶႸႹႺႻႼჀჁჂჃჄჅაბდეკლნორსტუფქღყცჭჯჰჱჲჳჴჷჹ",
    },
}

#: In the order in which the instances of a class use them, as far as they have the character. The Computer
#: Modern fonts are not among them: their tables name characters that they do not draw.
FONTS = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "STIXGeneral",
    "DejaVuSans-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Bold",
    "STIXGeneralItalic",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Oblique",
    "STIXGeneralBol",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-BoldItalic",
    "DejaVuSansMono-BoldOblique",
    "STIXGeneralBolIta",
)

#: Pixels a side, and images a class.
SIZE = 16
N_INSTANCES = 20

#: The longer side of a character in pixels, uniform; what stretches (diagonal) and shears or turns it
#: (off-diagonal) at most, uniform; how far it is off the centre at most, in pixels, uniform.
EXTENT = (11.0, 14.0)
STRETCH, SHEAR = 0.08, 0.15
SHIFT = 1.5

#: Straight pieces that a curve is drawn by, and lines a pixel along which its coverage is integrated.
N_PIECES = 4
N_LINES = 4

#: What ``FT2Font.get_path`` calls parts of an outline; the others are straight lines.
MOVE, CURVE, CLOSE = 1, 3, 79


@dataclass(frozen=True, eq=False)
class Glyphs:
    """The characters of one split.

    Attributes:
        images: ``(n_classes, n_instances, 16, 16)`` float32, ink is 1, paper 0. Instance k of every class
            that has equally many fonts is in the same font; all are moved, scaled and sheared a little.
        characters: which one each class is.
        scripts: the script of each class, alike for neighbours.
    """

    images: Tensor
    characters: tuple[str, ...]
    scripts: tuple[str, ...]


@cache
def glyphs(split: Split) -> Glyphs:
    """All characters of ``split``; no script is in two splits. The images depend on constants alone.

    Raises TaskError when this matplotlib's fonts lack one of them.
    """
    classes = [(script, char) for script, chars in SCRIPTS[split].items() for char in chars]
    fonts = _fonts()
    generator = numpy_generator(POOL_SEED, "glyphs", split)
    images: list[npt.NDArray[np.float32]] = []
    for _, char in classes:  # one at a time: what stays in a cache takes a third of the time of all at once
        outlines = [_curves(font, char) for font in fonts if font.get_char_index(ord(char))]
        if not outlines:
            raise TaskError(
                f"the fonts of the installed matplotlib lack the character U+{ord(char):04X}, which glyphs "
                "need; install matplotlib from PyPI"
            )
        images.append(_filled(*_placed(outlines, generator)))
    return Glyphs(
        torch.from_numpy(np.stack(images)),
        tuple(char for _, char in classes),
        tuple(script for script, _ in classes),
    )


def _fonts() -> list[FT2Font]:
    """The fonts, each at the size at which a unit of its design is one pixel."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts: list[FT2Font] = []
    for name in FONTS:
        path = folder / f"{name}.ttf"
        if not path.is_file():
            raise TaskError(
                f"matplotlib is installed without its font {path.name}, which glyphs need; install it from "
                "PyPI"
            )
        font = FT2Font(str(path))
        font.set_size(font.units_per_EM, 72)
        fonts.append(font)
    return fonts


def _curves(font: FT2Font, char: str) -> Array:
    """The outline of ``char``: start, control point and end of each quadratic curve, ``(n, 3, 2)``."""
    from matplotlib.ft2font import LoadFlags

    font.load_char(ord(char), flags=LoadFlags.NO_HINTING)
    vertices, codes = font.get_path()
    curved = codes == CURVE
    is_end = ~(curved & (curved.cumsum() % 2 == 1))  # of the two vertices of a curve the second
    begins = np.maximum.accumulate(np.where(codes == MOVE, np.arange(len(codes)), 0))
    points = np.where((codes == CLOSE)[:, None], vertices[begins], vertices)
    ends = np.flatnonzero(is_end)
    here, there = ends[:-1], ends[1:]
    drawn = codes[there] != MOVE
    here, there = here[drawn], there[drawn]
    straight = (points[here] + points[there]) / 2
    control = np.where(curved[there, None], vertices[there - 1], straight)
    return np.stack([points[here], control, points[there]], axis=1)


def _placed(outlines: list[Array], generator: np.random.Generator) -> tuple[Array, Indices]:
    """The images of one class as polygons in pixels, y downward, each transformed in its own way.

    Image k draws outline k, and so round again. Returns the points on all curves, ``(n, pieces + 1, 2)``, and
    the first curve of each image.
    """
    stretch = 1 + generator.uniform(-STRETCH, STRETCH, (N_INSTANCES, 2))
    shear = generator.uniform(-SHEAR, SHEAR, (N_INSTANCES, 2))
    extent = generator.uniform(*EXTENT, N_INSTANCES)
    shift = generator.uniform(-SHIFT, SHIFT, (N_INSTANCES, 2))

    drawn = [outlines[k % len(outlines)] for k in range(N_INSTANCES)]
    n_curves = np.array([len(outline) for outline in drawn])
    first = n_curves.cumsum() - n_curves
    image = np.repeat(np.arange(N_INSTANCES), n_curves)
    curves = np.concatenate(drawn)[:, :, None]
    step = np.linspace(0, 1, N_PIECES + 1)[:, None]
    flat = (1 - step) ** 2 * curves[:, 0] + 2 * step * (1 - step) * curves[:, 1] + step**2 * curves[:, 2]
    across, up = flat[..., 0], flat[..., 1]
    points = np.empty_like(flat)
    points[..., 0] = stretch[image, :1] * across + shear[image, :1] * up
    points[..., 1] = shear[image, 1:] * across - stretch[image, 1:] * up
    low = np.minimum.reduceat(points.min(1), first)
    size = np.maximum.reduceat(points.max(1), first) - low
    scale = (extent / size.max(1))[:, None]
    margin = (SIZE - scale * size) / 2
    offset = margin + shift.clip(-margin, margin) - low * scale
    return points * scale[image][:, None] + offset[image][:, None], first


def _filled(points: Array, first: Indices) -> npt.NDArray[np.float32]:
    """The share of each pixel inside each polygon, ``(n_images, 16, 16)``, in steps of 1/255.

    Along each of ``N_LINES`` lines through a row of pixels every edge that is crossed changes the winding
    number right of it; the running sum, cut at one (contours may overlap), is the coverage.
    """
    n_images = len(first)
    image = np.repeat(np.arange(n_images), np.diff(first, append=len(points)) * N_PIECES)
    x0, y0 = points[:, :-1].reshape(-1, 2).T
    x1, y1 = points[:, 1:].reshape(-1, 2).T
    y0, y1 = y0 * N_LINES, y1 * N_LINES
    line0 = np.ceil(np.minimum(y0, y1) - 0.5).astype(np.int64)
    crossed = np.ceil(np.maximum(y0, y1) - 0.5).astype(np.int64) - line0
    edge = np.repeat(np.arange(len(x0)), crossed)
    line = np.arange(len(edge)) + (line0 - crossed.cumsum() + crossed)[edge]
    slope = (x1 - x0)[crossed > 0] / (y1 - y0)[crossed > 0]
    x = x0[edge] + np.repeat(slope, crossed[crossed > 0]) * (line + 0.5 - y0[edge])
    column = np.floor(x).astype(np.int64)
    turn = np.where(y1 > y0, 1.0, -1.0)[edge]
    cell = (image[edge] * SIZE * N_LINES + line) * (SIZE + 1) + column
    n_cells = n_images * SIZE * N_LINES * (SIZE + 1)
    winding = np.bincount(cell, turn * (column + 1 - x), n_cells)
    winding += np.bincount(cell + 1, turn * (x - column), n_cells)
    lines = winding.reshape(n_images, SIZE, N_LINES, SIZE + 1).cumsum(-1)
    coverage: Array = np.minimum(np.abs(lines), 1)[..., :SIZE].mean(2)
    return (np.rint(coverage * 255) / 255).astype(np.float32)
