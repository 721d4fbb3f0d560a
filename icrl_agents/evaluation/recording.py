"""Recording: episodes of `play` as a GIF, or as an MP4, with a caption on every frame."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from icrl_agents.core.files.atomic import write_files
from icrl_agents.core.printable import printable
from icrl_agents.core.process.packages import need

if TYPE_CHECKING:
    from PIL.Image import Image

GIF, MP4 = ".gif", ".mp4"
MIN_WIDTH = 320  # pixels; smaller frames are enlarged, so that the caption is readable
BAND, MARGIN, LETTERS = 24, 6, 13  # pixels: height of the caption's band, its left margin, height of its letters
PAPER, INK = (255, 255, 255), (20, 20, 20)
HOLD = 1.0  # seconds that the last frame of an episode stays
MAX_FRAMES = 20_000  # frames in memory


class Recording:
    """Frames of some episodes, captioned; `save` writes them.

    Args:
        path: file to write, or to replace: .gif (needs Pillow) or .mp4 (needs imageio-ffmpeg, too).
        episodes: numbers of the recorded episodes, from 1; None: the first, a middle and the last one.

    Raises:
        ValueError: another suffix, or numbers below 1.
        ImportError: a package is missing; the message holds the pip command.
    """

    def __init__(self, path: str | Path, episodes: Iterable[int] | None = None):
        self.path = Path(path).expanduser()
        self.episodes = None if episodes is None else frozenset(episodes)
        if self.path.suffix.lower() not in (GIF, MP4):
            raise ValueError(f"'{printable(str(path))}' is no .gif or .mp4: give a name that ends so")
        if self.episodes is not None and (not self.episodes or min(self.episodes) < 1):
            raise ValueError(f"record episodes {sorted(self.episodes)}: give numbers from 1, such as 1,6,12")
        need("PIL.Image", "video")
        if self.path.suffix.lower() == MP4:
            need("imageio_ffmpeg", "video")
        self.frames: list[Image] = []
        self._lasts: set[int] = set()  # frames that end an episode

    def chosen(self, count: int) -> set[int]:
        """Numbers of the recorded episodes among `count`; ValueError for one beyond them."""
        if self.episodes is None:
            return {1, (count + 1) // 2, count}
        if (last := max(self.episodes)) > count:
            raise ValueError(f"record episode {last}: the lifetime has {count}; give numbers up to that")
        return set(self.episodes)

    def draw(self, env: gymnasium.Env, caption: str, last: bool = False) -> None:
        """Append the frame that `env` draws, with its caption; the last one of an episode stays for a second.

        Raises:
            ValueError: the environment draws no frames (height, width, 3) uint8.
            ImportError: a package that the environment draws with is missing.
        """
        frame = frame_of(env)
        if len(self.frames) == MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} frames: record fewer episodes (--record-episodes)")
        if last:
            self._lasts.add(len(self.frames))
        self.frames.append(captioned(frame, caption))

    def save(self, fps: float) -> Path:
        """Write the file, whole or not at all: `fps` frames a second, 50 at most in a GIF.

        Raises:
            ValueError: nothing was recorded.
            OSError: a system error, such as a full disk; an older file is unchanged.
        """
        if not self.frames:
            raise ValueError(f"{self.path}: no frame was recorded")
        made = self._gif(fps) if self.path.suffix.lower() == GIF else self._mp4(fps)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_files(self.path.parent, {self.path.name: made})
        return self.path

    def _gif(self, fps: float) -> bytes:
        step = max(20, round(1000 / fps))  # milliseconds; viewers slow down what is faster
        durations = [step + round(1000 * HOLD) * (number in self._lasts) for number in range(len(self.frames))]
        first, *rest = (frame.quantize(256) for frame in _same_size(self.frames))
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
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


def captioned(frame: np.ndarray, caption: str) -> Image:
    """The frame enlarged to a readable width, below a band with the caption; its sides are even, as videos need."""
    from PIL import Image, ImageDraw, ImageFont

    scale = max(1, -(-MIN_WIDTH // frame.shape[1]))
    picture = Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1))
    width, height = (side + side % 2 for side in (picture.width, picture.height + BAND))
    page = Image.new("RGB", (width, height), PAPER)
    page.paste(picture, (0, BAND))
    text = (MARGIN, (BAND - LETTERS) // 2 - 1)
    ImageDraw.Draw(page).text(text, caption, fill=INK, font=ImageFont.load_default(LETTERS))
    return page


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
