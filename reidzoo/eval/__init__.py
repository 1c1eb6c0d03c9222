"""What "found again" means: features, exact search, retrieval metrics, pictures. Arrays first, models second.

Imported eagerly: `evaluate` and `search` are also files of this package, and the functions must win over them.
"""

from reidzoo.eval.chart import Panel, line_chart
from reidzoo.eval.evaluate import evaluate
from reidzoo.eval.features import extract_features
from reidzoo.eval.metrics import compute_metrics
from reidzoo.eval.preprocess import create_transform
from reidzoo.eval.ranking import draw_ranking
from reidzoo.eval.report import EvalResult, comparison_table
from reidzoo.eval.search import search

__all__ = [
    "EvalResult",
    "Panel",
    "comparison_table",
    "compute_metrics",
    "create_transform",
    "draw_ranking",
    "evaluate",
    "extract_features",
    "line_chart",
    "search",
]
