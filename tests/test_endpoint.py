"""Any endpoint of fal is imported from what fal says of it, and runs; what fal changes is told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_config import read

from kling_sweeps.analysis import effects, runs_df
from kling_sweeps.emulator.endpoints import Endpoints
from kling_sweeps.endpoint import main, name_of
from kling_sweeps.experiment import openapi, yaml_files
from kling_sweeps.experiment.example import overrides
from kling_sweeps.experiment.model import read_model

PROMPT = {"type": "string", "description": "What is seen."}
SCHEMAS = {
    "Size": {
        "type": "object",
        "required": ["width", "height"],
        "properties": {name: {"type": "integer", "exclusiveMinimum": 0} for name in ("width", "height")},
    },
    "Base": {"type": "object", "properties": {"prompt": PROMPT}, "required": ["prompt"]},
    "Mode": {"type": "string", "enum": ["fast", "good"]},
    "Tree": {"type": "object", "properties": {"left": {"$ref": "#/components/schemas/Tree"}}},
    "Element": {
        "type": "object",
        "properties": {
            "frontal_image_url": {"type": "string", "x-fal": {"max_file_size": 100}},
            "video_url": {"type": "string", "x-fal": {"max_file_size": 200}},
        },
    },
    "Lora": {"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}},
}


def model(endpoint: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns an endpoint as a page of fal's models has it."""
    schema = {
        "type": "object",
        "properties": {"prompt": PROMPT, **properties},
        "required": ["prompt"],
        **more,
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/TheInput"}}}
    document = {
        "openapi": "3.0.4",
        "info": {"x-fal-metadata": {"endpointId": endpoint, "about": "Makes videos.\n\nMore."}},
        "components": {"schemas": {**SCHEMAS, "TheInput": schema}},
        "paths": {
            f"/{endpoint}/requests/{{id}}": {"get": {}},
            f"/{endpoint}": {"post": {"requestBody": {"content": content}}},
        },
    }
    return {
        "endpoint_id": endpoint,
        "metadata": {"display_name": "A model", "status": "active"},
        "openapi": document,
    }


def imported(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns the arguments of the model file of an endpoint."""
    page = {"models": [model("a/b", properties, **more)]}
    content = openapi.imported(openapi.described(page, "a/b")).model("b")
    read_model(content)
    arguments: dict[str, Any] = content["arguments"]
    return arguments


ELEMENT = {
    "type": "object",
    "properties": {
        "frontal_image_url": {"role": "image", "type": "string", "x-fal": {"max_file_size": 100}},
        "video_url": {"type": "string"},
    },
}
SEED = {"anyOf": [{"type": "integer"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("name", "schema", "expected"),
    [
        ("steps", {"type": "integer", "default": 4, "ui": {"x": 1}, "title": "Steps"}, {"type": "integer", "default": 4}),
        ("seed", {**SEED, "description": "Luck."}, {"role": "seed", **SEED}),
        ("old", {"type": "integer", "nullable": True}, SEED),
        ("scale", {"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "number", "exclusiveMinimum": 0}),
        ("mode", {"$ref": "#/components/schemas/Mode", "default": "fast"}, {**SCHEMAS["Mode"], "default": "fast"}),
        ("both", {"allOf": [{"$ref": "#/components/schemas/Mode"}], "default": "good"}, {**SCHEMAS["Mode"], "default": "good"}),
        ("tree", {"$ref": "#/components/schemas/Tree"}, {"type": "object", "properties": {"left": {}}}),
        (
            "loras",
            {"type": "array", "items": {"$ref": "#/components/schemas/Lora"}, "default": []},
            {"type": "array", "items": SCHEMAS["Lora"], "default": []},
        ),
        (
            "video_size",
            {"anyOf": [{"$ref": "#/components/schemas/Size"}, {"enum": ["square"], "type": "string"}]},
            {"role": "shape", "anyOf": [SCHEMAS["Size"], {"enum": ["square"], "type": "string"}]},
        ),
        ("duration", {"enum": ["auto", "4"], "type": "string"}, {"role": "seconds", "type": "string", "enum": ["auto", "4"]}),
        ("duration", {"type": "integer", "description": "in frames"}, {"type": "integer"}),
        ("resolution", {"type": "string", "const": "768x512"}, {"role": "shape", "type": "string", "const": "768x512"}),
        ("resolution", {"enum": ["720p", "4k"]}, {"enum": ["720p", "4k"]}),
        ("end_image_url", {"type": "string"}, {"role": "image", "type": "string"}),
        ("tail_image_url", {"type": "string", "default": ""}, {"role": "image", "type": "string"}),
        (
            "start_image_url",
            {"type": "string", "x-fal": {"min_width": 300, "max_aspect_ratio": 2.5, "timeout": 20}},
            {"role": "image", "type": "string", "x-fal": {"min_width": 300, "max_aspect_ratio": 2.5}},
        ),
        (
            "elements",
            {"anyOf": [{"type": "array", "items": {"$ref": "#/components/schemas/Element"}}, {"type": "null"}]},
            {"anyOf": [{"type": "array", "items": ELEMENT}, {"type": "null"}]},
        ),
        ("max_image_size", {"type": "integer"}, {"type": "integer"}),
        (
            "expand_prompt",
            {"type": "boolean", "default": True},
            {"role": "rewrites_prompt", "type": "boolean", "default": False, "fal_default": True},
        ),
        (
            "auto",
            {"type": "boolean", "description": "Whether to fix prompts by rewriting them."},
            {"role": "rewrites_prompt", "type": "boolean", "default": False},
        ),
        (
            "thinking",
            {"enum": ["on", "disabled"], "default": "on", "description": "Optimizes the prompt."},
            {"role": "rewrites_prompt", "enum": ["on", "disabled"], "default": "disabled", "fal_default": "on"},
        ),
        ("negative_prompt", {"type": "string"}, {"type": "string"}),
        ("wrong_default", {"type": "integer", "default": "many"}, {"type": "integer"}),
        ("odd", {"type": "file", "minimum": "a", "pattern": "(", "enum": []}, {}),
        ("name.with dots", {"type": "string", "default": "${a} \\${b} – \u2028 no: 16:9"}, {"type": "string", "default": "${a} \\${b} – \u2028 no: 16:9"}),
    ],
)  # fmt: skip
def test_every_kind_of_property_is_imported(name, schema, expected, tmp_path):
    """Writes down what fal says, inlined and in one dialect, what it means, and reads it back as it was meant."""
    found = imported({name: schema})[name]
    if found.get("fal_default") == found.get("default") and found.get("role") != "rewrites_prompt":
        expected = {**expected, **{key: found[key] for key in ("fal_default",) if key in found}}
    assert found == expected
    (tmp_path / "page.json").write_text(json.dumps(model("a/b", {name: schema})))
    assert run("a/b", tmp_path) == 0
    assert yaml_files.content(tmp_path / "mine/model/a_b.yaml")["arguments"][name] == expected


def run(endpoint: str, folder: Path, *more: str) -> int:
    return main(
        [endpoint, "--schema", str(folder / "page.json"), "--config-dir", str(folder / "mine"), *more]
    )


def test_an_input_may_be_composed():
    """Takes the properties of all parts of an input, and what all of its alternatives require."""
    given = {"allOf": [{"$ref": "#/components/schemas/Base"}, {"properties": {"more": {"type": "string"}}}]}
    assert [*imported({}, **given)] == ["prompt", "more"]
    assert [*imported({"b": {}, "a": {}}, **{"x-fal-order-properties": ["a", "prompt"]})] == [
        "a",
        "prompt",
        "b",
    ]


def test_documents_of_three_kinds_are_read():
    """Takes a page of models, a model, and an OpenAPI document alone, in JSON or YAML."""
    one = model("a/b", {})
    for document in ({"models": [one, model("c/d", {})]}, one, one["openapi"]):
        text = json.dumps(document)
        assert openapi.imported(openapi.described(openapi.parsed(text), "a/b")).endpoint == "a/b"
    assert openapi.described(openapi.parsed("openapi: 3.1.0\npaths: {/a/b: {post: {}}}"), "a/b")
    assert openapi.described({"openapi": "3.1.0", "paths": {"/": {"post": {}}}}, "a/b").endpoint == "a/b"


def nested(depth: int) -> dict[str, Any]:
    """Returns lists within lists, as deep."""
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "string"}


def doubling(levels: int) -> dict[str, Any]:
    """Returns a document in which each of so many schemas refers to the next one twice."""
    page = model("a/b", {"x": {"$ref": "#/components/schemas/L0"}})
    for level in range(levels):
        ref = {"$ref": f"#/components/schemas/L{level + 1}"}
        page["openapi"]["components"]["schemas"][f"L{level}"] = {"properties": {"a": ref, "b": ref}}
    page["openapi"]["components"]["schemas"][f"L{levels}"] = {"type": "string"}
    return page


FAILED = {"endpoint_id": "a/b", "openapi": {"error": {"code": "expansion_failed", "message": "too large"}}}
BROKEN = model("a/b", {"x": {"$ref": "#/components/schemas/Gone"}})
MUTE = model("a/b", {"prompt": {"type": "integer"}, "voice": {"type": "string"}})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (FAILED, "a/b can't be used: fal has no schema of it (expansion_failed): too large"),
        (BROKEN, "a/b can't be used: its document refers to #/components/schemas/Gone, which is not in it"),
        (MUTE, "a/b can't be used: it takes neither a prompt nor a picture"),
        (model("a/bc", {}), "page.json has no a/b; did you mean a/bc?"),
        ({"openapi": "3.1.0", "paths": {"/a/b": {"post": {}}}}, "its document does not say what is posted"),
        (
            model(
                "a/b", {"prompt": {"type": "integer"}}, allOf=[{"properties": [1], "required": 4}], required=5
            ),
            "it takes neither a prompt nor a picture",
        ),
        (model("a/b", {"x": nested(400)}), "its document is nested too deep"),
        (doubling(14), "its document has more than 5,000 parts"),
        ([1, "x"], "page.json is neither an OpenAPI document nor a page of fal's models"),
    ],
)
def test_what_can_not_be_imported_says_why(tmp_path, capfd, document, said):
    """Says in one line what is missing, writes nothing, and exits with 2."""
    (tmp_path / "page.json").write_text(json.dumps(document))
    assert run("a/b", tmp_path) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_an_imported_endpoint_is_run(tmp_path, capfd):
    """Prints what makes a valid request of the model, and one that reader and emulator take alike."""
    properties = {
        "image_url": {"type": "string"},
        "audio_url": {"type": "string"},
        "model": {"enum": ["a", "b"]},
        "loras": {"type": "array", "minItems": 2, "items": {"$ref": "#/components/schemas/Lora"}},
        "size": {"$ref": "#/components/schemas/Size"},
        "auto_fix": {"type": "boolean", "default": True},
    }
    page = model("a/b/image-to-video", properties, required=["prompt", *properties])
    (tmp_path / "page.json").write_text(json.dumps(page))
    assert run("a/b/image-to-video", tmp_path, "--name", "mine") == 0
    said = capfd.readouterr().out
    assert "auto_fix rewrites the prompt, and is off in the file, where fal has it on by default" in said
    trial = f"--config-dir {tmp_path}/mine model=mine +image_url=PATH/OF/A/PICTURE.png +audio_url=https://PATH/OF/IT "
    assert f"with yours for what is in capitals:\n  python -m kling_sweeps {trial}" in said
    assert "required: prompt, image_url, audio_url, model, loras, size, auto_fix" in said
    content = yaml_files.content(tmp_path / "mine/model/mine.yaml")
    given = shlex.split(" ".join(overrides(read_model(content))))
    cell = read(f"hydra.searchpath=[file://{tmp_path}/mine]", "model=mine", *given)[1]
    assert cell.request.arguments["model"] == "a" and cell.request.arguments["auto_fix"] is False
    assert len(cell.request.arguments["loras"]) == 2
    emulated = Endpoints([tmp_path / "mine/model"])
    assert emulated.read(cell.request.endpoint, cell.request.arguments)[1] == []


def test_a_file_goes_where_it_is_the_users(tmp_path, capfd, monkeypatch):
    """Writes into no installed package, says of a clone that it is its own folder, and leads on with the same options."""
    from kling_sweeps import endpoint

    page, mine = tmp_path / "page.json", tmp_path / "mine"
    page.write_text(json.dumps({"models": [model("a/b", {})]}))
    monkeypatch.setattr(endpoint, "CONF", Path(endpoint.__file__).parent / "conf")
    assert main(["a/b", "--schema", str(page)]) == 2
    assert "installed package" in (said := capfd.readouterr().err) and "--config-dir mine" in said
    monkeypatch.setattr(endpoint, "CONF", tmp_path / "conf")
    assert main(["a/b", "--schema", str(page)]) == 0 and (tmp_path / "conf/model/a_b.yaml").exists()
    assert "this clone's own folder" in capfd.readouterr().out
    assert main(["--list", "a", "--schema", str(page), "--config-dir", str(mine)]) == 0
    assert f"endpoint a/b --schema {page} --config-dir {mine}" in capfd.readouterr().out
    assert main(["a/b", "--config-dir", str(mine), "--base-url", "http://127.0.0.1:1"]) == 2
    assert "--schema FILE reads a saved document instead" in capfd.readouterr().err


def test_one_endpoint_that_fal_has_taken_off_hides_no_other(emulator, tmp_path, capfd):
    """Tells of each file how it stands, also where fal no longer has the endpoint of one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.yaml").write_text("{name: a, endpoint: gone/endpoint, arguments: {prompt: string}}")
    ours = Path("conf/model/kling_v2_master.yaml").read_text(encoding="utf-8")
    (folder / "b.yaml").write_text(ours.replace("maximum: 1", "maximum: 2"))
    assert main(["--diff", "--config-dir", str(tmp_path), "--base-url", emulator.base_url]) == 1
    said = capfd.readouterr().out
    assert "fal has no gone/endpoint" in said
    assert "cfg_scale: maximum is 2 in the file, 1 of fal's" in said


def test_a_file_is_not_written_over(tmp_path, capfd):
    """Says what fal has changed, and what that means for the store; --replace writes it anew and keeps its price."""
    before = {"steps": {"type": "integer", "default": 4}, "style": {"type": "string"}}
    after = {"steps": {"type": "integer", "default": 8}, "audio": {"type": "boolean", "default": True}}
    (tmp_path / "page.json").write_text(json.dumps(model("a/b", before)))
    assert run("a/b", tmp_path) == run("a/b", tmp_path, "--diff") == run("a/b", tmp_path) == 0
    file = tmp_path / "mine/model/a_b.yaml"
    file.write_text(file.read_text() + "price: {usd: 0.5, per: video}\n")
    (tmp_path / "page.json").write_text(json.dumps(model("a/b", after)))
    capfd.readouterr()
    assert run("a/b", tmp_path, "--diff") == 1
    said = capfd.readouterr().out
    assert "audio is new: at true, stored videos are taken as they are" in said
    assert "fal_default" not in said.replace("steps: fal_default is 4", "")
    assert "style is gone" in said
    assert "steps: default is 4 in the file, 8 of fal's; what is in the store has the one of the file" in said
    assert run("a/b", tmp_path) == 2 and "audio" not in file.read_text()
    assert run("a/b", tmp_path, "--replace") == 0
    assert yaml_files.content(file)["price"] == {"usd": 0.5, "per": "video"}
    assert "audio" in file.read_text()


def test_a_file_that_can_not_be_written_anew_is_left(tmp_path, capfd, monkeypatch):
    """Keeps the old file where the new one would not read as it was meant, or its price is none."""
    (tmp_path / "page.json").write_text(json.dumps(model("a/b", {})))
    assert run("a/b", tmp_path) == 0
    file = tmp_path / "mine/model/a_b.yaml"
    before = file.read_text() + "price: {usd: 0.14, per: second}\n"
    for page, price in (
        (model("a/b", {"${x}": {"type": "string"}}), ""),
        (model("a/b", {"more": {}}), "price: 5\n"),
    ):
        file.write_text(before if not price else before.replace("price: {usd: 0.14, per: second}\n", price))
        kept = file.read_text()
        (tmp_path / "page.json").write_text(json.dumps(page))
        assert run("a/b", tmp_path, "--replace") == 2
        assert file.read_text() == kept and [*file.parent.iterdir()] == [file]


def test_the_price_of_a_file_is_kept(emulator, tmp_path, capfd):
    """Keeps a price with its tiers where fal lists another one, and says what fal lists."""
    endpoint, asked = "fal-ai/kling-video/v2.6/pro/text-to-video", ["--base-url", emulator.base_url]
    assert main([endpoint, "--config-dir", str(tmp_path), "--name", "m", *asked]) == 0
    file = tmp_path / "model/m.yaml"
    content = yaml_files.content(file)
    tiered = {"usd": 0.2, "per": "second", "tiers": [{"usd": 0.1, "when": {"generate_audio": False}}]}
    file.write_text(json.dumps({**content, "price": tiered, "required": []}))
    assert main([endpoint, "--config-dir", str(tmp_path), "--name", "m", "--replace", *asked]) == 0
    assert "price: as in the file; fal lists 0.14 USD per second" in capfd.readouterr().out
    assert yaml_files.content(file)["price"] == tiered


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("fal-ai/veo3.1", "veo3.1"),
        ("fal-ai/kling-video/v3/pro/text-to-video", "kling-video_v3_pro"),
        ("wan/v2.6/image-to-video", "wan_v2.6_image-to-video"),
    ],
)
def test_a_model_is_called_after_its_endpoint(endpoint, name):
    """Leaves out what most endpoints have in common, and keeps what tells them apart."""
    assert name_of(endpoint) == name


def test_fal_is_asked(emulator, tmp_path, capfd):
    """Fetches schema and price of an endpoint from fal's API, and searches in its list."""
    asked = ["--base-url", emulator.base_url]
    assert main(["--list", "turbo", *asked]) == 0
    endpoint = "fal-ai/kling-video/v2.5-turbo/pro/text-to-video"
    assert endpoint in capfd.readouterr().out
    assert main([endpoint, "--config-dir", str(tmp_path), *asked]) == 0
    assert "price: 0.07 USD per second" in capfd.readouterr().out
    mine = yaml_files.content(tmp_path / "model/kling-video_v2.5-turbo_pro.yaml")
    ours = read_model(yaml_files.content(Path("conf/model/kling_v2.5_turbo_pro.yaml")))
    theirs = {
        name: {key: one for key, one in schema.items() if key != "fal_default"}
        for name, schema in mine["arguments"].items()
    }
    assert theirs == ours.arguments and read_model(mine).price.usd == ours.price.usd
    assert main(["fal-ai/nosuch", *asked]) == 2
    assert "fal has no fal-ai/nosuch" in capfd.readouterr().err
    assert main(["--diff", *asked]) == 0


def test_models_of_different_arguments_are_compared(command):
    """Sweeps over three models, each with what it takes, and says what the model changes and what goes with it."""
    models = "model=kling_v2_master,veo3.1,wan_v2.7"
    given = ("where_taken={generate_audio: false, resolution: 720p}", "sample=0,1", "metrics=fast")
    small = ("provider.emulator.width=128", "provider.emulator.height=72", "provider.emulator.fps=8")
    done = command("-m", models, *given, "provider=emulator", *small, "goal={sharpness: max}")
    assert done.returncode == 0, done.stderr
    assert "veo3.1: duration=8s  resolution=720p  generate_audio=False  auto_fix=False" in done.stdout
    assert "On fal this would have cost 7.00 USD" in done.stdout
    runs = runs_df("single", command.tracking_uri)
    assert runs.groupby("model")["duration"].first().to_dict() == {
        "kling_v2_master": "5",
        "veo3.1": "8s",
        "wan_v2.7": "5",
    }
    assert runs.groupby("model")["cfg_scale"].first().isna().to_dict()["veo3.1"]
    assert (runs["duration_error_s"].abs() < 0.2).all() and (runs["aspect_error"] < 0.01).all()
    found = effects(runs, "model", ["sharpness"])
    assert set(found["model"]) == {"kling_v2_master", "veo3.1", "wan_v2.7"}
    assert found["difference"].notna().all() and found["smallest_detectable"].notna().sum() == 2


def test_the_emulator_reads_a_document(tmp_path):
    """Checks requests by an OpenAPI document as it checks them by a model file."""
    file = tmp_path / "page.json"
    file.write_text(json.dumps({"models": [model("a/b", {"mode": {"enum": ["x"]}}), FAILED]}))
    emulated = Endpoints([file])
    assert emulated.read("a/b", {"prompt": "a fox", "mode": "x"})[1] == []
    assert emulated.read("a/b", {"mode": "y"})[1][0]["type"] == "missing"


def test_a_file_of_ones_own_stands_in_for_the_packages(command):
    """Takes the model that was imported into --config-dir, though the package has one of the same name."""
    ours = Path("conf/model/veo3.1.yaml").read_text(encoding="utf-8")
    mine = command.folder / "mine/model/veo3.1.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(ours.replace('default: "8s"', 'default: "4s"'), encoding="utf-8")
    dry = command("--config-dir", "mine", "model=veo3.1", "dry_run=true")
    assert "duration=4s" in dry.stdout and "1.60 USD" in dry.stdout
    assert "duration=8s" in command("model=veo3.1", "dry_run=true").stdout
