"""The report as one page of HTML, which needs no script, no network and no other file."""

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from subsel.defense.reporting import Report

__all__ = ["page"]

LISTED, GROUPS, OF_GROUP, SIDE = 200, 12, 8, 96
COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee"]
COLOURS += ["#aa3377", "#999933", "#882255", "#44aa99", "#777777"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; }
.facts div { background: #f2f4f7; border-radius: 6px; padding: .4rem .8rem; }
.facts b { display: block; font-size: 1.3rem; }
.sheet { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #d5d9e0; border-radius: 6px; padding: .6rem; font-size: .8rem;
  width: 16.5rem; overflow-wrap: anywhere; }
.card.known { border: 2px solid #b00020; }
.row { display: flex; gap: .5rem; align-items: flex-start; }
figure { margin: 0; text-align: center; width: 5rem; }
figure img { width: 4.5rem; image-rendering: pixelated; border-radius: 3px; background: #eee; }
figcaption { font-size: .7rem; line-height: 1.25; overflow-wrap: anywhere; }
.badge { background: #b00020; color: #fff; border-radius: 3px; padding: 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; }
td, th { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #e3e6ec;
  white-space: nowrap; }
th { background: #f2f4f7; } td.text, th.text { text-align: left; }
.key span { display: inline-block; margin-right: .8rem; font-size: .8rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .25rem; }
svg { max-width: 100%; height: auto; }
"""


def page(report: "Report") -> str:
    """The page for a report."""
    title = "What the audit found" if report.audited else "What EPIC dropped"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *_summary(report),
        *_how_to_read(report),
        *([] if report.audited else _when(report)),
        *_per_class(report),
        *_suspicious(report),
        *_groups(report),
        *_table(report),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _summary(report: "Report") -> list[str]:
    flagged = report.flagged()
    facts: list[tuple[str, Any]] = [("examples", len(report))]
    if report.audited:
        facts.append(("that stand alone", sum(flagged)))
    else:
        facts += [("dropped by EPIC", sum(flagged)), ("rounds", len(report.rounds))]
        facts.append(("kept in the end", sum(report.kept())))
    if "copies" in report.columns:
        facts.append(("in groups of near-duplicates", sum(map(len, report.groups))))
    if "known" in report.columns:
        known = report.columns["known"]
        found = flagged if report.audited else [not kept for kept in report.kept()]
        count = sum(k and f for k, f in zip(known, found, strict=True))
        what = "known poisons that stand alone" if report.audited else "known poisons dropped"
        facts.append((what, f"{count} of {sum(known)}"))
    shown = "".join(f"<div><b>{_text(value)}</b>{_text(name)}</div>" for name, value in facts)
    return [f'<div class="facts">{shown}</div>']


def _how_to_read(report: "Report") -> list[str]:
    if report.audited:
        return [
            "<h2>How to read this</h2>",
            "<p>Nothing was dropped. Each example has a suspicion between 0 and 1: the mean, over "
            "several scores, of the share of examples that score lower. The scores are its loss, "
            "how alone its gradient stands in its class, how many of its nearest neighbours have "
            "another label (Deep k-NN), how far it lies along its class's main direction (Spectral "
            "Signatures), and whether it is in the smaller of two clusters of its class "
            "(Activation Clustering).</p>",
            "<p>Every data set has examples with a high suspicion: rare views, odd images, wrong "
            "labels. Look at these examples, and at what they are near to. Several of them beside "
            "the same example, or beside the same other class, are a sign of an attack.</p>",
        ]
    first = "Look first at those with a large distance to their class."
    if "loss_now" in report.columns:
        first = (
            "Look first at the examples at the top: their labels are far less likely now than when "
            "they were dropped. The label of a harmless example mostly stays likely, because "
            "others like it are still trained on. That of a poison often does not, because only "
            "poisons taught it to the model."
        )
    return [
        "<h2>How to read this</h2>",
        "<p>EPIC drops the examples whose gradient stands alone in their class. A targeted poison "
        "is such an example, because it has to pull the model towards another class. But most of "
        "what EPIC drops is harmless: rare views, odd images, wrong labels. Being in this list "
        "does not make an example a poison.</p>",
        f"<p>{first} Then look at what they are near to: several of them beside the same "
        "example, or beside the same other class, are a sign of an attack. Wrong labels can be "
        "seen too: then the example belongs to the class that the model predicts.</p>",
    ]


def _when(report: "Report") -> list[str]:
    if not report.rounds:
        return ["<h2>When</h2><p>No round took place.</p>"]
    label_of = dict(zip(report.columns["index"], report.columns["label"], strict=True))
    counts = np.zeros((len(report.rounds), len(report.classes)), dtype=int)
    for place, entry in enumerate(report.rounds):
        for i in entry.dropped.tolist():
            counts[place, label_of[i]] += 1
    width, height, left, top = 720, 220, 46, 10
    most, step = max(1, counts.sum(axis=1).max()), width / len(counts)
    bars = []
    for place, row in enumerate(counts):
        y = float(top + height)
        for label in np.flatnonzero(row).tolist():
            tall = height * row[label] / most
            y -= tall
            bars.append(
                f'<rect x="{left + place * step + step * 0.1:.1f}" y="{y:.1f}" '
                f'width="{step * 0.8:.1f}" height="{tall:.1f}" fill="{_colour(label)}">'
                f"<title>{_text(report.classes[label])}: {row[label]}</title></rect>"
            )
    every = max(1, len(counts) // 12)
    for place, entry in list(enumerate(report.rounds))[::every]:
        x = left + (place + 0.5) * step
        bars.append(_svg_text(x, top + height + 16, str(entry.epoch), "middle"))
    for value in (0, most):
        y = top + height * (1 - value / most)
        bars.append(_svg_text(left - 6, y + 4, str(value), "end"))
    bars.append(_svg_text(left + width / 2, top + height + 34, "before epoch", "middle"))
    keys = "".join(
        f'<span><i style="background:{_colour(label)}"></i>{_text(report.classes[label])}</span>'
        for label in np.flatnonzero(counts.sum(axis=0))[:20].tolist()
    )
    return [
        "<h2>When, by class</h2>",
        f'<svg viewBox="0 0 {left + width + 10} {top + height + 42}" width="{left + width + 10}" '
        f'role="img" aria-label="examples dropped before each epoch">{"".join(bars)}</svg>',
        f'<div class="key">{keys}</div>',
    ]


def _per_class(report: "Report") -> list[str]:
    labels = np.array(report.columns["label"])
    kept, flagged = np.array(report.kept()), np.array(report.flagged())
    rows = []
    for label, name in enumerate(report.classes):
        own = labels == label
        if own.any():
            share = 100 * (1 - kept[own].mean())
            cells = [own.sum(), flagged[own].sum(), kept[own].sum(), f"{share:.1f} %"]
            rows.append([name, *(cells[:2] if report.audited else cells)])
    names = ["class", "examples", "dropped by EPIC", "kept in the end", "missing"]
    if report.audited:
        names = ["class", "examples", "that stand alone"]
    return ["<h2>Per class</h2>", _as_table(names, rows, texts={"class"})]


def _suspicious(report: "Report") -> list[str]:
    shown = [row for row in report.rows() if row["index"] in report.beside]
    if not shown:
        return []
    place = dict(zip(report.columns["index"], range(len(report)), strict=True))
    cards = []
    for row in shown:
        pictures = [_figure(report, row["index"], place, f"this: {row['class']}")]
        for name, what in (("any", "nearest kept"), ("own", "nearest of its class")):
            if (j := report.beside[row["index"]].get(name)) is not None:
                other = report.columns["class"][place[j]]
                pictures.append(_figure(report, j, place, f"{what}: {other}"))
        known = bool(row.get("known"))
        badge = ' <span class="badge">known poison</span>' if known else ""
        if report.audited:
            told = (
                f"Suspicion {_number(row['suspicion'])}, {row['deep_knn']:.0%} of its neighbours "
                f"have another label, probability of its label {_number(row['probability_now'])}. "
                f"The model predicts {_text(row['predicted'])}."
            )
        else:
            told = (
                f"Dropped before epoch {_text(row['round'])}. Probability of its label then "
                f"{_number(row['probability'])}, now {_number(row['probability_now'])}: the model "
                f"predicts {_text(row['predicted'])}. Distance to its class then "
                f"{_number(row['neighbour_distance'])}."
                + (" It came back later." if row["kept"] else "")
            )
        cards.append(
            f'<div class="card{" known" * known}"><b>{row["rank"]}. {_text(row["id"])}</b>{badge}'
            f'<div class="row">{"".join(pictures)}</div>'
            f"{told}</div>"
        )
    return [
        "<h2>The most suspicious</h2>",
        "<p>Each is shown beside the kept example that the trained model finds most like it, and "
        "beside the one of its own class that is most like it.</p>",
        f'<div class="sheet">{"".join(cards)}</div>',
    ]


def _groups(report: "Report") -> list[str]:
    if not report.groups:
        return []
    place = dict(zip(report.columns["index"], range(len(report)), strict=True))
    kept = report.kept()
    cards = []
    for group in report.groups[:GROUPS]:
        some = group[:OF_GROUP].tolist()
        label = report.columns["class"][place[some[0]]]
        pictures = "".join(
            _figure(
                report,
                i,
                place,
                f"{report.columns['id'][place[i]]}" + ("" if kept[place[i]] else ", dropped"),
            )
            for i in some
        )
        more = f" and {len(group) - len(some)} more" if len(group) > len(some) else ""
        cards.append(
            f'<div class="card" style="width:auto"><b>{len(group)} of class {_text(label)}</b>'
            f'{more}<div class="row" style="flex-wrap:wrap">{pictures}</div></div>'
        )
    return [
        "<h2>Near-duplicates</h2>",
        f"<p>{len(report.groups)} groups; the largest are shown. An attacker who knows EPIC "
        "submits each poison in several copies, so that none stands alone. "
        "<code>subsel.defense.distinct</code> leaves one of each.</p>",
        f'<div class="sheet">{"".join(cards)}</div>',
    ]


def _table(report: "Report") -> list[str]:
    rows = report.rows()
    if not report.audited:
        rows = [row for row in rows if row["round"] is not None]
    names = [name for name in report.columns if name not in ("index", "label")]
    texts = {"id", "class", "predicted"}
    cells = [[_cell(row[name]) for name in names] for row in rows[:LISTED]]
    more = (
        f"<p>The first {LISTED} of {len(rows)}; all are in the CSV.</p>"
        if len(rows) > LISTED
        else ""
    )
    title = "All, the most suspicious first" if report.audited else "Everything that was dropped"
    return [f"<h2>{title}</h2>", more, _as_table(names, cells, texts)]


def _figure(report: "Report", i: int, place: dict[int, int], caption: str) -> str:
    image = ""
    if report.images is not None:
        name = escape(str(report.columns["id"][place[i]]), quote=True)
        image = f'<img alt="{name}" src="data:image/png;base64,{_png(report.images[i])}">'
    return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"


def _png(image: Tensor) -> str:
    """A small PNG in base64; values outside 0..1 are stretched to their range."""
    from PIL import Image

    pixels = image.float().numpy().transpose(1, 2, 0)
    if image.dtype.is_floating_point:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            pixels = (pixels - low) / max(high - low, 1e-12)
        pixels = pixels * 255
    whole = np.nan_to_num(pixels).clip(0, 255).round().astype(np.uint8)
    picture = Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _as_table(names: list[str], rows: Iterable[list[Any]], texts: set[str]) -> str:
    kinds = [' class="text"' if name in texts else "" for name in names]
    pairs = list(zip(names, kinds, strict=True))
    head = "".join(f"<th{kind}>{_text(name.replace('_', ' '))}</th>" for name, kind in pairs)
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_text(v)}</td>" for v, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _text(value: Any) -> str:
    return escape(str(value))


def _svg_text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" fill="#444">'
        f"{_text(text)}</text>"
    )


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]
