"""Frames of a MuJoCo simulation on machines with and without a screen."""

from __future__ import annotations

import ctypes.util
import os
import sys
import weakref
from typing import Any

import numpy as np

CAMERAS = ("corner", "corner2", "corner3", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = CAMERAS[:3]
VARIABLE = "MUJOCO_GL"  # read by MuJoCo when it is imported
OFFSCREEN = ("egl", "osmesa")


def prepare_frames() -> None:
    """Let MuJoCo draw without a screen, unless the user chose otherwise; before MuJoCo is imported."""
    if _needs_offscreen() and VARIABLE not in os.environ and ctypes.util.find_library("EGL"):
        os.environ[VARIABLE] = "egl"


class Frames:
    """Draws frames of one size from a camera of the model.

    Raises:
        OSError: there is neither a screen nor OpenGL without one.
    """

    def __init__(self, mujoco: Any, model: Any, camera: str, height: int, width: int):
        self._camera = camera
        if _needs_offscreen() and os.environ.get(VARIABLE, "").lower() not in OFFSCREEN:
            raise OSError(
                "MuJoCo draws no frames without a screen: install libegl1 or libosmesa6, and set MUJOCO_GL=egl or "
                "osmesa before Python starts."
            )
        size = model.vis.global_  # of the buffer that frames are drawn in
        size.offwidth, size.offheight = max(size.offwidth, width), max(size.offheight, height)
        self._renderer = mujoco.Renderer(model, height, width)
        self.close = weakref.finalize(self, self._renderer.close)  # at exit too, while OpenGL is still there

    def draw(self, data: Any) -> np.ndarray:
        """Return a frame (height, width, 3) uint8 of `data`."""
        self._renderer.update_scene(data, self._camera)
        frame = self._renderer.render()
        return np.ascontiguousarray(frame[::-1, ::-1]) if self._camera in UPSIDE_DOWN else frame


def _needs_offscreen() -> bool:
    return sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY")
