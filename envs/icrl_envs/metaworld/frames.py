"""Frames of a simulation of Meta-World."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from icrl_envs.base.opengl import drawing

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
        with drawing():
            self._renderer = mujoco.Renderer(model, height, width)
        self.close = weakref.finalize(self, self._renderer.close)  # at exit too, while OpenGL is still there

    def draw(self, data: Any) -> np.ndarray:
        """Return a frame (height, width, 3) uint8 of `data`."""
        self._renderer.update_scene(data, self._camera)
        frame = self._renderer.render()
        return np.ascontiguousarray(frame[::-1, ::-1]) if self._camera in UPSIDE_DOWN else frame
