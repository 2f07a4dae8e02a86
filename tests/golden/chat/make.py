"""Renders the templates of this folder anew, as transformers 5.23.0 with jinja2 3.1.6 does, and writes snippets.jsonl and rendered.jsonl.

    python make.py                     # in place: nothing changes
    python make.py "{{ 1 + 1 }}" ...   # adds snippets, too

A line with "error" is a template that the reference refuses.
"""

import copy
import datetime
import json
import sys
from pathlib import Path

import transformers.utils.chat_template_utils as chat

HERE = Path(__file__).parent


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 15, 12, 34, 56)


chat.datetime = Now


def render(source, variables):
    """{"out": text} or {"error": class and message}."""
    try:
        return {"out": chat._compile_jinja_template(source).render(**copy.deepcopy(variables))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, lines, **style):
    path.write_text("".join(json.dumps(line, **style) + "\n" for line in lines))


def main():
    path = HERE / "snippets.jsonl"
    head, *lines = read_lines(path)
    sources = [line["template"] for line in lines]
    sources += [source for source in sys.argv[1:] if source not in sources]
    rendered = [{"template": source} | render(source, head["variables"]) for source in sources]
    for line in rendered:
        if "error" in line:
            line["error"] = line["error"].split(":")[0]
    write_lines(path, [head] + rendered)

    conversations, templates = (json.loads((HERE / name).read_text()) for name in ("conversations.json", "templates.json"))
    path = HERE / "rendered.jsonl"
    lines = []
    for line in read_lines(path):
        name, facts = line["template"], templates[line["template"]]
        variables = {"messages": conversations["conversations"][line["conv"]], "tools": conversations["tools"] if line["tools"] else None, "documents": None,
                     "add_generation_prompt": line["add_generation_prompt"], "bos_token": facts["bos_token"], "eos_token": facts["eos_token"],
                     "pad_token": "<pad>", "unk_token": "<unk>", "date_string": conversations["date_string"]}
        rendered = render((HERE / "templates" / f"{name}.jinja").read_text(), variables)
        lines.append({key: value for key, value in line.items() if key not in ("out", "error")} | rendered)
    write_lines(path, lines, separators=(",", ":"))


if __name__ == "__main__":
    main()
