"""One page with the pictures of every clip that a model got wrong; it needs no network."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from rewarder.agreement import Agreement, Verdict
from rewarder.clip_set import SetClip

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
article { border-top: 1px solid #ccc; padding: .8em 0 }
h2 { font-size: 1em; margin: 0 0 .2em } p { margin: 0 0 .5em; color: #555 }
.row { display: flex; gap: 4px; flex-wrap: wrap } figure { margin: 0 }
img { width: 160px; image-rendering: pixelated; background: #eee; min-height: 96px }
figcaption { font-size: .8em; color: #777 }
"""


def gallery(
    title: str, agreement: Agreement, verdicts: Sequence[Verdict], clips: Mapping[str, SetClip]
) -> str:
    """Return the page: false successes first, then missed ones, then those without a verdict."""
    wrong = sorted((verdict for verdict in verdicts if verdict.wrong), key=_how_bad)
    shown = "".join(_article(verdict, clips[verdict.clip]) for verdict in wrong)
    said = f"{len(wrong)} of {agreement.clips} clips are judged wrongly."
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{said}</p>{shown}</html>\n"
    )


def _how_bad(verdict: Verdict) -> tuple[bool, bool, str, str]:
    return not verdict.said, verdict.said is None, verdict.kind, verdict.clip


def _article(verdict: Verdict, item: SetClip) -> str:
    words = {True: "done", False: "not done", None: "no verdict"}
    sure = "" if math.isnan(verdict.probability) else f", p = {verdict.probability:.3f}"
    about = f"{verdict.kind}, labelled {words[verdict.truth]}, judged {words[verdict.said]}{sure}"
    why = f" ({verdict.why})" if verdict.why else ""
    rows = "".join(
        f"<div class=row>{''.join(_figure(item, name, t) for t in range(len(item.clip)))}</div>"
        for name in item.clip.frames
    )
    return (
        f"<article id='{verdict.clip}'><h2>{escape(item.clip.goal)}</h2>"
        f"<p>{escape(about + why)} · {verdict.clip}</p>{rows}</article>"
    )


def _figure(item: SetClip, camera: str, t: int) -> str:
    picture = base64.b64encode(item.clip.frames[camera][t]).decode("ascii")
    seconds = item.clip.stamps[t] - item.clip.stamps[0]
    text = f"{camera}, {seconds:.1f} s"
    return (
        f"<figure><img alt='{escape(text, quote=True)}' src='data:image/jpeg;base64,{picture}'>"
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )
