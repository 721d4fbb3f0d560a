"""A bandit over HTTP: one agent for all users, a session for each, and rewards that arrive whenever they do.

    python examples/07_serve_a_bandit.py
    curl -X POST localhost:8000/users/ann/decisions             {"decision": 0, "item": 3}
    curl -X POST localhost:8000/users/ann/decisions/0/reward -H "content-type: application/json" -d '{"reward": 1}'

A user's session is a clone: the same weights, a context of its own. It knows the decisions whose reward has arrived, in
the order of arrival. After every request the context is on the disk: a new process continues. (Needs the extra serve.)
"""

import threading
from pathlib import Path

import uvicorn
from fastapi import Body, FastAPI, HTTPException
from fastapi import Path as InUrl
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from icrl_agents import ICAgent

AGENT, ITEMS, FOLDER, MOST_USERS = "icrl/headless-ad-bernoulli", 10, Path("runs/served"), 10_000
NAME = InUrl(pattern="^[a-z0-9-]{1,40}$")  # a user's name is a folder's: nothing that climbs out of FOLDER


class Users:
    """Sessions by name, each with a lock, since requests come in several threads."""

    def __init__(self):
        self.agent, self.lock = ICAgent.from_pretrained(AGENT), threading.Lock()
        self.agent.reset(num_actions=ITEMS)
        self.sessions: dict[str, tuple[ICAgent, threading.Lock]] = {}

    def session(self, name: str) -> tuple[ICAgent, threading.Lock]:
        """Session of a user: in memory, else on the disk, else new."""
        with self.lock:
            if name not in self.sessions:
                if len(self.sessions) >= MOST_USERS:
                    raise HTTPException(503, "too many users")
                session = self.agent.clone()
                session.reset(num_actions=ITEMS)
                if (FOLDER / name / "context.safetensors").exists():
                    try:
                        session.load_context(FOLDER / name)
                    except ValueError as error:  # damaged: no fault of the request
                        raise HTTPException(500, str(error)) from None
                self.sessions[name] = session, threading.Lock()
            return self.sessions[name]


def make_app() -> FastAPI:
    app, users = FastAPI(title="A bandit that learns each user in context"), Users()
    app.add_exception_handler(ValueError, lambda _, refusal: JSONResponse({"detail": str(refusal)}, 409))

    @app.exception_handler(RequestValidationError)  # FastAPI would repeat the input, and JSON cannot hold NaN
    def malformed(_: object, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": [one["msg"] for one in error.errors()]}, 422)

    @app.post("/users/{name}/decisions")
    def decide(name: str = NAME) -> dict[str, int]:
        session, lock = users.session(name)
        with lock:
            item, decision = session.decide(0)
            session.save_context(FOLDER / name)
        return {"decision": decision, "item": int(item)}

    @app.post("/users/{name}/decisions/{decision}/reward")
    def reward(decision: int, reward: float = Body(ge=0, le=1, embed=True), name: str = NAME) -> dict[str, int]:
        session, lock = users.session(name)
        with lock:
            session.observe(0, reward, False, False, decision=decision)
            session.save_context(FOLDER / name)
            return {"known": int(session.context.length[0])}

    return app


if __name__ == "__main__":
    uvicorn.run(make_app())
