"""Table 7: published results on mammograms, each with the address where it was read.

Nothing here was measured by us, and nothing can be compared: other data, other splits, other tasks.
Every figure was read in the abstract at `address` on 26 November 2026; what an abstract does not
say is left empty.
"""

from typing import NamedTuple

from hmc_fast.evaluation.paper import RESULTS
from hmc_fast.evaluation.study_table import StudyTable


class Published(NamedTuple):
    """year: None where the page did not give it; data: as named there; result: as printed there."""

    title: str
    year: int | None
    data: str
    result: str
    address: str


_HMC = RESULTS["hmc"]["accuracy"]

LITERATURE = (
    Published(
        "HMC-net: a ResNet fused hierarchical multi-scale cross-attention architecture (the paper "
        "of this study)",
        2026,
        "MIAS, 5 folds",
        f"accuracy {_HMC.mean} (± {100 * _HMC.sd:.2f})",
        "https://synapsesocial.com/ar/papers/6a0ebedfaa1655e5fb22be25",
    ),
    Published(
        "Hybrid CNN–ViT Model for Breast Cancer Classification in Mammograms: A Three-Phase Deep "
        "Learning Framework",
        None,
        "MIAS; DDSM; INbreast",
        "accuracy 100% on MIAS, over 99% on the others",
        "https://jeeemi.org/index.php/jeeemi/article/view/920",
    ),
    Published(
        "An ensemble of convolutional networks on MIAS, CBIS-DDSM and INbreast (title not read)",
        2025,
        "INbreast, the best of the three",
        "accuracy 0.9976, AUC 1.0",
        "https://www.iieta.org/node/21220",
    ),
    Published(
        "Performance Evaluation of Deep Learning Models on Mammogram Classification Using Small "
        "Dataset",
        2022,
        "a small set that the abstract does not name",
        "accuracy 0.998 (DenseNet), 0.988 (AlexNet)",
        "https://pmc.ncbi.nlm.nih.gov/articles/PMC9027584",
    ),
    Published(
        "Deep-learning based adaptive fusion of CC and MLO views for improved mammographic cancer "
        "diagnosis (MammoFusion-Net)",
        None,
        "VinDr-Mammo; INBreast",
        "accuracy 92.116% (VinDr-Mammo), 95.556% (INBreast)",
        "https://tomesphere.com/paper/PMC12937147",
    ),
    Published(
        "MamT4: Multi-view Attention Networks for Mammography Cancer Classification",
        2024,
        "VinDr-Mammo, independent test set",
        "ROC-AUC 84.0 ± 1.7, F1 56.0 ± 1.3",
        "https://ui.adsabs.harvard.edu/abs/arXiv:2411.01669",
    ),
    Published(
        "Transfer Learning and Fine Tuning in Breast Mammogram Abnormalities Classification on "
        "CBIS-DDSM Database",
        2020,
        "CBIS-DDSM",
        "AUC 0.844 (VGG16)",
        "https://astesj.com/v05/i02/p20",
    ),
    Published(
        "Mammo-Bench: A Large-scale Benchmark Dataset of Mammography Images (first version)",
        2025,
        "Mammo-Bench: 74,436 images of 26,500 patients",
        "accuracy 78.8% (77.8% without augmentation), 25 – 69% on other sets",
        "https://www.medrxiv.org/content/10.1101/2025.01.31.25321510v1",
    ),
    Published(
        "Efficient Multi-scale Masked Autoencoders with Hybrid-Attention Mechanism for Breast "
        "Lesion Classification (MIRAM)",
        2025,
        "CBIS-DDSM",
        "accuracy 61.0%",
        "https://arxiv.org/html/2503.07157v4",
    ),
)


def literature_table() -> StudyTable:
    """Table 7: none of it ours."""
    return StudyTable(
        "table7_literature",
        "Table 7. Published results. Not comparable: other data, other splits",
        ["work", "year", "data", "as printed", "read at"],
        [list(published) for published in LITERATURE],
        [
            "A list of what others print, not a ranking: data, classes, splits, budgets and "
            "metrics differ. Only the abstracts were read; whether a patient's images can stand on "
            "both sides of a split was not looked up."
        ],
        all_paper=True,
    )
