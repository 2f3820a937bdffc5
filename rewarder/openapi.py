"""What the reward service takes and returns, as an OpenAPI document at `/openapi.json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_COMPONENTS = "#/components/schemas/{model}"


class Problem(BaseModel):
    """What every refusal says."""

    code: str
    message: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header with a number that a request may have."""

    name: str
    about: str
    above: float
    most: float

    def described(self) -> dict[str, Any]:
        """Return it as OpenAPI has it."""
        schema = {"type": "number", "exclusiveMinimum": self.above, "maximum": self.most}
        said = {"name": self.name, "description": self.about, "schema": schema}
        return said | {"in": "header", "required": False}


def takes(
    body: type[BaseModel], *, answers: type[BaseModel], headers: Sequence[Header] = ()
) -> dict[str, Any]:
    """Return what FastAPI cannot know of a route that reads and checks its body itself."""
    return {
        "parameters": [header.described() for header in headers],
        "requestBody": {"required": True, "content": _json_of(body)},
        **responds(answers),
    }


def responds(answers: type[BaseModel]) -> dict[str, Any]:
    """Return what FastAPI cannot know of the answers of a route."""
    described = {"200": answers, "4XX": Problem, "503": Problem}
    return {
        "responses": {
            status: {"description": model.__name__, "content": _json_of(model)}
            for status, model in described.items()
        }
    }


def describe(app: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Have an application serve its document, with the models that its routes name."""
    document: dict[str, Any] = get_openapi(title=app.title, version="1", routes=app.routes)
    _, schemas = models_json_schema(
        [(model, "validation") for model in (*models, Problem)], ref_template=_COMPONENTS
    )
    document["components"] = {"schemas": schemas["$defs"]}

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return document


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    reference = _COMPONENTS.format(model=model.__name__)
    return {"application/json": {"schema": {"$ref": reference}}}
