"""Recording: episodes of `play` as a GIF, or as an MP4, with a caption on every frame."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from icrl_agents.core.checks import check_value
from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import need

if TYPE_CHECKING:
    from PIL.Image import Image

GIF, MP4 = ".gif", ".mp4"
MIN_WIDTH = 320  # pixels; smaller frames are enlarged, so that the caption is readable
MAX_WIDTH = 4096
BAND, MARGIN, LETTERS = 24, 6, 13  # pixels: height of the caption's band, its left margin, height of its letters
SMALLEST = 6  # pixels: height of the letters of a caption that is wider than its frame
COLOURS, SAMPLED = 256, 16  # colours of a GIF, and frames that they are chosen from
PAPER, INK = (255, 255, 255), (20, 20, 20)
HOLD = 1.0  # seconds that the last frame of an episode stays
MAX_FRAMES = 20_000  # frames in memory


class Recording:
    """Frames of some episodes, captioned; `save` writes them.

    Args:
        path: file to write, or to replace: .gif (needs Pillow) or .mp4 (needs imageio-ffmpeg, too).
        episodes: numbers of the recorded episodes, from 1; None: the first, a middle and the last one.
        width: pixels of a frame, at least 64; None: as the environment draws, at least `MIN_WIDTH`.
        every: record each n-th step and the last one of an episode.

    Raises:
        ValueError: another suffix, numbers below 1, or a width out of range.
        ImportError: a package is missing; the message holds the pip command.
    """

    def __init__(
        self, path: str | Path, episodes: Iterable[int] | None = None, width: int | None = None, every: int = 1
    ):
        self.path = Path(path).expanduser()
        check_value("width", "int | None", width, (64, MAX_WIDTH))
        check_value("every", "int", every, (1, 1_000_000))
        self.width, self.every = width, every
        self.episodes = None if episodes is None else frozenset(episodes)
        if self.path.suffix.lower() not in (GIF, MP4):
            raise ValueError(f"'{printable(str(path))}' is no .gif or .mp4: give a name that ends so")
        if self.episodes is not None and (not self.episodes or min(self.episodes) < 1):
            raise ValueError(f"record episodes {sorted(self.episodes)}: give numbers from 1, such as 1,6,12")
        need("PIL.Image", "video")
        if self.path.suffix.lower() == MP4:
            need("imageio_ffmpeg", "video")
        self.frames: list[Image] = []
        self._step = 0  # steps of the episode so far
        self._lasts: set[int] = set()  # frames that end an episode

    def chosen(self, count: int) -> set[int]:
        """Numbers of the recorded episodes among `count`; ValueError for one beyond them."""
        if self.episodes is None:
            return usual_episodes(count)
        if (last := max(self.episodes)) > count:
            raise ValueError(f"record episode {last}: the lifetime has {count}; give numbers up to that")
        return set(self.episodes)

    def draw(self, env: gymnasium.Env, caption: str, last: bool = False) -> None:
        """Append the frame that `env` draws, with its caption, at each n-th call of an episode and its last one.

        The last frame of an episode stays for a second.

        Raises:
            ValueError: the environment draws no frames (height, width, 3) uint8.
            ImportError: a package that the environment draws with is missing.
        """
        left_out = self._step % self.every and not last
        self._step = 0 if last else self._step + 1
        if left_out:
            return
        frame = frame_of(env)
        if len(self.frames) == MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} frames: record fewer episodes (--record-episodes)")
        if last:
            self._lasts.add(len(self.frames))
        self.frames.append(captioned(frame, caption, self.width))

    def save(self, fps: float, note: str = "") -> Path:
        """Write the file, whole or not at all.

        Args:
            fps: steps shown a second; a GIF has 50 frames a second at most.
            note: comment in a GIF, which the card of an agent shows as its caption.

        Raises:
            ValueError: nothing was recorded.
            OSError: a system error, such as a full disk; an older file is unchanged.
        """
        if not self.frames:
            raise ValueError(f"{self.path}: no frame was recorded")
        fps /= self.every
        made = self._gif(fps, note) if self.path.suffix.lower() == GIF else self._mp4(fps)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_files(self.path.parent, {self.path.name: made})
        return self.path

    def _gif(self, fps: float, note: str) -> bytes:
        step = max(20, round(1000 / fps))  # milliseconds; viewers slow down what is faster
        durations = [step + round(1000 * HOLD) * (number in self._lasts) for number in range(len(self.frames))]
        first, *rest = _same_colours(_same_size(self.frames))
        buffer = io.BytesIO()
        noted = {"comment": note.encode()} if note else {}
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, **noted)
        return buffer.getvalue()

    def _mp4(self, fps: float) -> bytes:
        frames = _same_size(self.frames)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            write = need("imageio_ffmpeg", "video").write_frames
            video = write(str(path), frames[0].size, fps=fps, macro_block_size=2, ffmpeg_log_level="error")
            video.send(None)
            for number, frame in enumerate(frames):
                for _ in range(1 + round(fps * HOLD) * (number in self._lasts)):
                    video.send(frame.tobytes())
            video.close()
            return path.read_bytes()


def usual_episodes(count: int) -> set[int]:
    """Numbers of the first, a middle and the last of `count` episodes."""
    return {1, (count + 1) // 2, count}


def frame_of(env: gymnasium.Env) -> np.ndarray:
    """Frame (height, width, 3) uint8 of an environment, with the errors of `Recording.draw`."""
    try:
        picture = env.render()
    except DependencyNotInstalled as error:
        raise ImportError(f"{env.unwrapped} cannot draw: {printable(error, 160)}") from None
    frame = np.asarray(picture)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(
            f"{env.unwrapped} draws {type(picture).__name__} {frame.dtype} {frame.shape}, not a frame "
            "(height, width, 3) uint8: only environments with render mode rgb_array can be recorded"
        )
    return frame


def captioned(frame: np.ndarray, caption: str, at_width: int | None = None) -> Image:
    """The frame of `at_width` pixels, or enlarged to a readable one, below a band with the caption.

    Its sides are even, as videos need.
    """
    from PIL import Image, ImageDraw

    picture = _sized(frame, at_width)
    width, height = (side + side % 2 for side in (picture.width, picture.height + BAND))
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(picture, (0, BAND))
    text = (MARGIN, (BAND - LETTERS) // 2 - 1)
    ImageDraw.Draw(page).text(text, caption, fill=INK, font=_letters(caption, page.width - 2 * MARGIN))
    return page


def _sized(frame: np.ndarray, width: int | None) -> Image:
    """The frame as a picture: enlarged by a whole number, or resampled to `width`."""
    from PIL import Image

    if width is None:
        scale = max(1, -(-MIN_WIDTH // frame.shape[1]))
        return Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1))
    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    return Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)


def _letters(caption: str, room: int) -> Any:
    """A font in which the caption is at most `room` pixels wide, if it is readable then."""
    from PIL import ImageFont

    needed = ImageFont.load_default(LETTERS).getlength(caption)
    return ImageFont.load_default(max(SMALLEST, min(LETTERS, int(LETTERS * room / max(needed, 1)))))


def _same_colours(frames: list[Image]) -> list[Image]:
    """Frames of one palette: what does not change between them is stored once, as a GIF stores differences."""
    from PIL import Image

    some = frames[:: -(-len(frames) // SAMPLED)]
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for number, frame in enumerate(some):
        sheet.paste(frame, (0, height * number))
    palette = sheet.quantize(COLOURS)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _same_size(frames: list[Image]) -> list[Image]:
    """Frames pasted on pages of the size of the largest, as an environment may draw episodes of different sizes."""
    from PIL import Image

    size = max(frame.width for frame in frames), max(frame.height for frame in frames)
    if all(frame.size == size for frame in frames):
        return frames
    pages = [Image.new("RGB", size, PAPER) for _ in frames]
    for page, frame in zip(pages, frames, strict=True):
        page.paste(frame, (0, 0))
    return pages
