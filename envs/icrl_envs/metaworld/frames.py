"""Frames of a MuJoCo simulation on machines with and without a screen."""

from __future__ import annotations

import os
import sys
import weakref
from importlib import import_module
from typing import Any

import numpy as np

from icrl_envs.base.checks import short

CAMERAS = ("corner", "corner2", "corner3", "topview", "behindGripper", "gripperPOV")
UPSIDE_DOWN = CAMERAS[:3]


class Frames:
    """Draws frames of one size from a camera of the model.

    Raises:
        OSError: there is neither a screen nor OpenGL without one.
    """

    def __init__(self, mujoco: Any, model: Any, camera: str, height: int, width: int):
        self._camera = camera
        size = model.vis.global_  # of the buffer that frames are drawn in
        size.offwidth, size.offheight = max(size.offwidth, width), max(size.offheight, height)
        try:
            _draw_without_screen()
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # whatever the OpenGL library raises
            raise OSError(
                f"MuJoCo cannot draw frames here ({short(str(error), 100)}): on a machine without a screen install "
                "libegl1, or libosmesa6 and set MUJOCO_GL=osmesa before Python starts."
            ) from error
        self.close = weakref.finalize(self, self._renderer.close)  # at exit too, while OpenGL is still there

    def draw(self, data: Any) -> np.ndarray:
        """Return a frame (height, width, 3) uint8 of `data`."""
        self._renderer.update_scene(data, self._camera)
        frame = self._renderer.render()
        return np.ascontiguousarray(frame[::-1, ::-1]) if self._camera in UPSIDE_DOWN else frame


def _draw_without_screen() -> None:
    """Choose EGL where MuJoCo would ask for a window that cannot open, unless the user has chosen."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux"
    if not screen and not os.environ.get("MUJOCO_GL"):
        known: Any = import_module("mujoco.gl_context")
        known.GLContext = import_module("mujoco.egl").GLContext
