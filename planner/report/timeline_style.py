"""Colours and words of a step's timeline, of the picture (runtime) and of the report's page (launch)."""

# The colour-blind can distinguish them (Okabe and Ito's, 2008); forward and backward differ in lightness too.
PASS_COLOURS = {"forward": "#7aa6da", "backward": "#1f4e8c", "check": "#009e73", "update": "#8a8f98"}
WAIT_COLOURS = {
    "all_to_all": "#d55e00",
    "tensor_parallel": "#f0e442",
    "gradient_reduce": "#cc79a7",
    "stage_wait": "#e69f00",
}
LABELS = {
    "all_to_all": "all-to-all of tokens",
    "tensor_parallel": "TP collective",
    "gradient_reduce": "gradient reduction",
    "stage_wait": "waiting for another stage",
}
