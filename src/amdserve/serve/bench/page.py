"""The report: one page that opens from a disk, needs no network, and is right in light and dark. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from amdserve.serve.bench import table
from amdserve.serve.bench.chart import Bar, Group, draw, number
from amdserve.serve.bench.choose import ANSWER, PROMPT
from amdserve.serve.bench.grid import Kind
from amdserve.serve.bench.result import Choice, Measurement, Result
from amdserve.serve.bench.style import STYLE

SHORT = {"llama-server-vulkan": "Vulkan", "llama-server-rocm": "ROCm", "llama-cpp-python": "CPU"}
COLOURS = tuple(SHORT)
RIGHT = ' class="n"'


def page(result: Result) -> str:
    """Give the whole page."""
    body = [_head(result), _verdict(result), _facts(result)]
    for kind in ("prefill", "generation"):
        body.append(_chart(result, kind))
    body += [_failures(result), _left(result), _points(result), _how(result)]
    title = escape(f"{result.model.name}: amdserve bench")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(result: Result) -> str:
    first = result.chosen[0] if result.chosen else None
    device = next((one.device for one in result.backends if first and one.backend == first.backend), "")
    told = "No backend could be compared."
    if first is not None:
        rate = number(first.generation or first.prefill)
        told = f"<b>{rate} t/s</b> on {escape(first.backend)}, {escape(device)}"
    warnings = ["Stopped before its end: what follows is incomplete."] if result.interrupted else []
    warnings += [table.noise(result)] if result.noisy else []
    return (
        f'<header><p class="kicker">amdserve bench</p><h1>{escape(result.model.name)}</h1>'
        f'<p class="lead">{told}</p>'
        + "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings)
        + "</header>"
    )


def _verdict(result: Result) -> str:
    if not result.chosen:
        return ""
    slowest = max(one.seconds for one in result.chosen)
    body = "".join(_place(number, one, slowest) for number, one in enumerate(result.chosen, 1))
    names = ("typical request", "prefill t/s", "generation t/s", "flash attention", "micro-batch")
    head = "".join(f"<th{'' if name == 'flash attention' else RIGHT}>{name}</th>" for name in names)
    said = table.request(result)
    saved = (
        "This order and these settings are saved: <code>amdserve serve</code> uses them."
        if result.saved
        else "Not saved: with <code>--save</code> the server uses this order and these settings."
    )
    return (
        '<section><h2>What to serve it with</h2><div class="scroll"><table class="verdict">'
        f"<thead><tr><th></th><th>backend</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="note">{escape(said[0].upper() + said[1:])}. The least time wins. {saved}</p></section>'
    )


def _place(place: int, one: Choice, slowest: float) -> str:
    colour, share = _colour(one.backend), 100 * one.seconds / slowest
    meter = f'<span class="meter"><span class="b{colour}" style="width:{share:.1f}%"></span></span>'
    after = number(one.generation) if one.generation else "–"
    return (
        f'<tr><td>{place}</td><td><i class="dot b{colour}"></i>{escape(one.backend)}</td>'
        f"<td{RIGHT}>{one.seconds:.2f} s{meter}</td><td{RIGHT}>{number(one.prefill)}</td>"
        f"<td{RIGHT}>{after}</td><td>{one.flash_attn}</td><td{RIGHT}>{one.n_ubatch}</td></tr>"
    )


def _facts(result: Result) -> str:
    model, machine, image = result.model, result.machine, result.image
    clocks = machine.clocks
    core = clocks.get("core_mhz") or []
    told = ", ".join(
        part
        for part in (
            f"core {core[0]}–{core[-1]} MHz" if core else "",
            f"memory up to {clocks['memory_mhz'][-1]} MHz" if clocks.get("memory_mhz") else "",
            f"{clocks['highest_mhz']} MHz seen" if clocks.get("highest_mhz") else "",
            f"governed: {clocks['governed']}" if clocks.get("governed") else "",
        )
        if part
    )
    size = f"{model.bytes / 2**30:.2f} GiB" if model.bytes >= 2**28 else f"{model.bytes / 2**20:.1f} MiB"
    pairs = (
        (
            "Model",
            ", ".join(
                part for part in (model.architecture, model.quant, size if model.bytes else "") if part
            ),
        ),
        (
            "GPU",
            " ".join(part for part in (machine.gpu, f"({machine.gfx})" if machine.gfx else "") if part)
            or "none",
        ),
        ("Vulkan", machine.vulkan or ""),
        ("ROCm", machine.rocm or ""),
        ("Kernel", " · ".join(part for part in (machine.kernel, machine.kernel_driver) if part)),
        ("Clocks", told),
        ("CPU", f"{machine.cpu}, {machine.cpus} logical" if machine.cpu else ""),
        ("Memory", f"{machine.memory_bytes / 2**30:.1f} GiB" if machine.memory_bytes else ""),
        ("Image", " ".join(part for part in (image.name, image.digest or image.hash) if part)),
        ("llama.cpp", image.llama),
        ("When", f"{result.date.replace('T', ' ').rstrip('Z')} UTC, for {result.seconds:.0f} s"),
        ("Fingerprint", model.fingerprint),
    )
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in pairs if value)
    return f'<section><h2>Where and when</h2><dl class="facts">{rows}</dl></section>'


def _chart(result: Result, kind: Kind) -> str:
    grid = result.grid
    lengths = sorted(grid.prompts if kind == "prefill" else grid.generate)
    if not any(one.kind == kind for one in result.points):
        return ""
    groups = []
    for depth in sorted(grid.depths):
        for tokens in lengths:
            bars = tuple(_bar(result, one.backend, kind, depth, tokens) for one in result.backends)
            if any(bar.rate for bar in bars):
                groups.append(Group(_title(kind, depth, tokens), bars))
    what = "Prefill: reading the prompt" if kind == "prefill" else "Generation: writing the answer"
    note = (
        "Tokens per second: more is better. ± is the standard deviation. Each backend with the best settings."
    )
    return (
        f'<section><h2>{what}</h2><p class="note">{note}</p>'
        f'<div class="scroll">{draw(groups, f"{what}, by depth and backend")}</div></section>'
    )


def _title(kind: Kind, depth: int, tokens: int) -> str:
    what = f"a prompt of {tokens} tokens" if kind == "prefill" else f"{tokens} tokens"
    return f"{what}, after {depth} tokens of context" if depth else f"{what}, empty context"


def _bar(result: Result, backend: str, kind: Kind, depth: int, tokens: int) -> Bar:
    found = [
        one
        for one in result.points
        if (one.backend, one.kind, one.depth, one.tokens) == (backend, kind, depth, tokens)
    ]
    name = SHORT.get(backend, backend)
    if not found:
        failed = next((one.cls for one in result.failures if one.backend == backend), "")
        reason = f"failed: {failed}" if failed and not _is_left(result, backend) else "not measured"
        return Bar(name, _colour(backend), None, missing=reason)
    one = _chosen(result, found) or max(found, key=lambda one: one.rate)
    return Bar(name, _colour(backend), one.rate, one.stddev)


def _is_left(result: Result, backend: str) -> bool:
    return any(one.backend == backend for one in result.left)


def _chosen(result: Result, found: Sequence[Measurement]) -> Measurement | None:
    pick = result.choice(found[0].backend)
    if pick is None:
        return None
    for one in found:
        size = min(one.tokens, pick.n_ubatch) if one.n_ubatch else None
        if (one.flash_attn, one.n_ubatch) == (pick.flash_attn, size):
            return one
    return None


def _failures(result: Result) -> str:
    if not result.failures:
        return ""
    parts = []
    for one in result.failures:
        words = f"<pre>{escape(chr(10).join(one.words))}</pre>" if one.words else ""
        parts.append(
            f'<article class="failure"><h3><i class="dot b{_colour(one.backend)}"></i>{escape(one.backend)}'
            f' <span class="class">{escape(one.cls)}</span></h3><p>{escape(one.detail)}</p>{words}'
            f"{_tests('Without an answer', one.tests)}</article>"
        )
    return f"<section><h2>What failed</h2>{''.join(parts)}</section>"


def _left(result: Result) -> str:
    items = [
        f"<li><b>{escape(one.backend)}</b>: {len(one.tests)} tests, {escape(one.reason)}"
        f"{_tests('Which', one.tests)}</li>"
        for one in result.left
    ]
    items += [f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in result.skipped.items()]
    return f"<section><h2>What was not measured</h2><ul>{''.join(items)}</ul></section>" if items else ""


def _tests(title: str, tests: Iterable[str]) -> str:
    rows = "".join(f"<li>{escape(test)}</li>" for test in tests)
    return f"<details><summary>{title}</summary><ul>{rows}</ul></details>" if rows else ""


def _points(result: Result) -> str:
    if not result.points:
        return ""
    head = "".join(f"<th{RIGHT if name in table.NUMBERS else ''}>{name}</th>" for name in table.HEAD)
    rows = []
    for one in table.ordered(result.points, [backend.backend for backend in result.backends]):
        cells = table.row(one)
        shown = "".join(
            f"<td{RIGHT if name in table.NUMBERS else ''}>{escape(cell)}</td>"
            for name, cell in zip(table.HEAD, cells, strict=True)
        )
        rows.append(f"<tr>{shown}</tr>")
    return (
        '<section><h2>Every measurement</h2><div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _how(result: Result) -> str:
    answer = f" and {ANSWER} ÷ generation rate" if result.grid.generate else ""
    return (
        f"<footer><p>Each test was run {result.grid.repeat} times by the image's own llama-bench, after a "
        f"warm-up. The typical request is {PROMPT} ÷ prefill rate{answer}, in seconds. Generation does not "
        "depend on the micro-batch, nor does a prompt that fits in it: such tests are run once.</p></footer>"
    )


def _colour(backend: str) -> int:
    return COLOURS.index(backend) if backend in COLOURS else len(COLOURS)
