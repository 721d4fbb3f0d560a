"""Frames of MuJoCo on machines with and without a screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from icrl_envs.base.checks import short

CHOICE = "MUJOCO_GL"  # environment variable by which users choose how MuJoCo draws


@contextmanager
def drawing() -> Iterator[None]:
    """MuJoCo draws by EGL inside the block where there is no screen, unless the user has chosen.

    By itself it would ask for a window, which cannot open, and the next attempt of any kind would end the process.

    Raises:
        OSError: there is neither a screen nor OpenGL without one.
    """
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux"
    chosen = bool(screen or os.environ.get(CHOICE))
    try:
        if not chosen:
            os.environ[CHOICE] = "egl"  # read by Gymnasium when it draws its first frame
            known: Any = import_module("mujoco.gl_context")  # MuJoCo's own choice, made when it was imported
            known.GLContext = import_module("mujoco.egl").GLContext
        yield
    except Exception as error:  # whatever the OpenGL library raises
        raise OSError(
            f"MuJoCo cannot draw frames here ({short(str(error), 100)}): on a machine without a screen install "
            f"libegl1, or libosmesa6 and set {CHOICE}=osmesa before Python starts."
        ) from error
    finally:
        if not chosen:
            os.environ.pop(CHOICE, None)
