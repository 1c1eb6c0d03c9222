"""What "found again" means: features, exact search, retrieval metrics, pictures. Arrays first, models second.

Imported eagerly: `evaluate` and `search` are also files of this package, and the functions must win over them.
"""

from reidzoo.eval.chart import Panel, line_chart
from reidzoo.eval.evaluate import Evaluation, cross_evaluate, dataset_features, evaluate, score
from reidzoo.eval.expansion import expand
from reidzoo.eval.extractor import Extractor
from reidzoo.eval.feature_files import FeatureSet, check_same_model, load_features
from reidzoo.eval.features import extract_features
from reidzoo.eval.heatmap import heat_maps
from reidzoo.eval.html_report import write_report
from reidzoo.eval.index import Neighbours, SearchIndex
from reidzoo.eval.metrics import compute_metrics, metrics_from_distances
from reidzoo.eval.preprocess import create_transform
from reidzoo.eval.protocols import MultiQuery, Protocol
from reidzoo.eval.ranking import draw_ranking
from reidzoo.eval.report import EvalResult, comparison_table
from reidzoo.eval.rerank import Rerank, rerank
from reidzoo.eval.scores import Roc, Scores, Threshold
from reidzoo.eval.search import search
from reidzoo.eval.splits import SplitResult, average_splits, splits_table
from reidzoo.eval.tables import Row, results_table

__all__ = [
    "EvalResult",
    "Evaluation",
    "Extractor",
    "FeatureSet",
    "MultiQuery",
    "Neighbours",
    "Panel",
    "Protocol",
    "Rerank",
    "Roc",
    "Row",
    "Scores",
    "SearchIndex",
    "SplitResult",
    "Threshold",
    "average_splits",
    "check_same_model",
    "comparison_table",
    "compute_metrics",
    "create_transform",
    "cross_evaluate",
    "dataset_features",
    "draw_ranking",
    "evaluate",
    "expand",
    "extract_features",
    "heat_maps",
    "line_chart",
    "load_features",
    "metrics_from_distances",
    "rerank",
    "results_table",
    "score",
    "search",
    "splits_table",
    "write_report",
]
