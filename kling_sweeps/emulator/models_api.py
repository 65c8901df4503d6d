"""fal's list of models, with the OpenAPI document of each: what the emulator's model files say, as fal would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .state import Emulator

if TYPE_CHECKING:
    from kling_sweeps.experiment.model import Model

MODELS_PATH = "/v1/models"
EXPANDED = "openapi-3.0"
CATEGORIES = ("image-to-video", "video-to-video")
PAGE = 50
DATE = "2026-01-01T00:00:00Z"


async def models(emulator: Emulator, request: Request) -> Response:
    """Answer a page of the endpoints that have a model file: those that are asked for, or that a text is found in."""
    given = request.query_params
    wanted = given.getlist("endpoint_id")
    words = given.get("q", "").lower().split()
    found = [
        model
        for endpoint, model in emulator.queue.endpoints.models.items()
        if (not wanted or endpoint in wanted)
        and all(word in f"{endpoint} {model.name}".lower() for word in words)
        and given.get("category", _category(model)) == _category(model)
        and given.get("status", "active") == "active"
    ]
    try:
        first, limit = int(given.get("cursor", 0)), max(1, int(given.get("limit", PAGE)))
    except ValueError:
        message = "limit and cursor are whole numbers"
        return JSONResponse({"error": {"type": "validation_error", "message": message}}, 400)
    is_expanded = EXPANDED in given.getlist("expand")
    has_more = len(found) > first + limit
    return JSONResponse(
        {
            "models": [_listed(model, is_expanded) for model in found[first : first + limit]],
            "next_cursor": str(first + limit) if has_more else None,
            "has_more": has_more,
        }
    )


def _category(model: Model) -> str:
    return next((kind for kind in CATEGORIES if kind in model.endpoint), "text-to-video")


def _listed(model: Model, is_expanded: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "display_name": model.name,
        "category": _category(model),
        "description": "emulated",
        "status": "active",
        "tags": [],
        "updated_at": DATE,
        "is_favorited": None,
        "thumbnail_url": "",
        "model_url": f"https://fal.run/{model.endpoint}",
        "date": DATE,
        "highlighted": False,
        "pinned": False,
    }
    described = {"openapi": document(model)} if is_expanded else {}
    return {"endpoint_id": model.endpoint, "metadata": metadata, **described}


def document(model: Model) -> dict[str, Any]:
    """Return the OpenAPI document of an endpoint, in the shape of fal's."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Input"}}}
    schema = {
        "title": "Input",
        "type": "object",
        "properties": {name: _as_fal(one) for name, one in model.arguments.items()},
        "required": list(model.required),
        "x-fal-order-properties": list(model.arguments),
    }
    about = {"endpointId": model.endpoint, "category": _category(model)}
    return {
        "openapi": "3.0.4",
        "info": {"title": model.name, "version": "1.0.0", "x-fal-metadata": about},
        "components": {"schemas": {"Input": schema}},
        "paths": {f"/{model.endpoint}": {"post": {"requestBody": {"required": True, "content": content}}}},
    }


def _as_fal(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an argument without what is ours, and with fal's own default."""
    theirs = {name: one for name, one in schema.items() if name not in ("role", "fal_default")}
    return theirs | ({"default": schema["fal_default"]} if "fal_default" in schema else {})
