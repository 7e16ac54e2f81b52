"""Lists of patch features as other projects write them: TRIDENT, CLAM and STAMP."""

from wsipipe.store.feature_lists.base import LAYOUTS, FeatureList, Layout, ListFacts, ListHeader, Vectors
from wsipipe.store.feature_lists.reading import read_feature_list
from wsipipe.store.feature_lists.writing import list_paths, write_feature_list

__all__ = [
    "LAYOUTS",
    "FeatureList",
    "Layout",
    "ListFacts",
    "ListHeader",
    "Vectors",
    "list_paths",
    "read_feature_list",
    "write_feature_list",
]
