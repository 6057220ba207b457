"""The works that a Methods paragraph cites, as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import fedmed

_ENTRIES: Final = {
    "fedmed": (
        "misc",
        {
            "author": "{The fedmed authors}",
            "title": "{fedmed: what does privacy cost a network of hospitals?}",
            "note": "Version VERSION",
        },
    ),
    "beutel2020": (
        "article",
        {
            "author": "Beutel, Daniel J. and Topal, Taner and Mathur, Akhil and others",
            "title": "{Flower}: A Friendly Federated Learning Research Framework",
            "journal": "arXiv preprint arXiv:2007.14390",
            "year": "2020",
        },
    ),
    "mcmahan2017": (
        "inproceedings",
        {
            "author": "McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth "
            'and Ag{\\"u}era y Arcas, Blaise',
            "title": "Communication-Efficient Learning of Deep Networks from Decentralized Data",
            "booktitle": "Artificial Intelligence and Statistics (AISTATS)",
            "year": "2017",
        },
    ),
    "mcmahan2018": (
        "inproceedings",
        {
            "author": "McMahan, H. Brendan and Ramage, Daniel and Talwar, Kunal and Zhang, Li",
            "title": "Learning Differentially Private Recurrent Language Models",
            "booktitle": "International Conference on Learning Representations (ICLR)",
            "year": "2018",
        },
    ),
    "andrew2021": (
        "inproceedings",
        {
            "author": "Andrew, Galen and Thakkar, Om and McMahan, H. Brendan and "
            "Ramaswamy, Swaroop",
            "title": "Differentially Private Learning with Adaptive Clipping",
            "booktitle": "Advances in Neural Information Processing Systems (NeurIPS)",
            "year": "2021",
        },
    ),
    "abadi2016": (
        "inproceedings",
        {
            "author": "Abadi, Martin and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan and "
            "Mironov, Ilya and Talwar, Kunal and Zhang, Li",
            "title": "Deep Learning with Differential Privacy",
            "booktitle": "ACM Conference on Computer and Communications Security (CCS)",
            "year": "2016",
        },
    ),
    "dwork2006": (
        "inproceedings",
        {
            "author": "Dwork, Cynthia and McSherry, Frank and Nissim, Kobbi and Smith, Adam",
            "title": "Calibrating Noise to Sensitivity in Private Data Analysis",
            "booktitle": "Theory of Cryptography Conference (TCC)",
            "year": "2006",
        },
    ),
    "fan2018": (
        "inproceedings",
        {
            "author": "Fan, Liyue",
            "title": "Image Pixelization with Differential Privacy",
            "booktitle": "Data and Applications Security and Privacy (DBSec)",
            "year": "2018",
        },
    ),
    "efron1987": (
        "article",
        {
            "author": "Efron, Bradley",
            "title": "Better Bootstrap Confidence Intervals",
            "journal": "Journal of the American Statistical Association",
            "volume": "82",
            "pages": "171--185",
            "year": "1987",
        },
    ),
    "agresti1998": (
        "article",
        {
            "author": "Agresti, Alan and Coull, Brent A.",
            "title": "Approximate Is Better than ``Exact'' for Interval Estimation of Binomial "
            "Proportions",
            "journal": "The American Statistician",
            "volume": "52",
            "pages": "119--126",
            "year": "1998",
        },
    ),
    "newcombe2006": (
        "article",
        {
            "author": "Newcombe, Robert G.",
            "title": "Confidence Intervals for an Effect Size Measure Based on the "
            "{Mann--Whitney} Statistic. Part 2: Asymptotic Methods and Evaluation",
            "journal": "Statistics in Medicine",
            "volume": "25",
            "pages": "559--573",
            "year": "2006",
        },
    ),
    "holm1979": (
        "article",
        {
            "author": "Holm, Sture",
            "title": "A Simple Sequentially Rejective Multiple Test Procedure",
            "journal": "Scandinavian Journal of Statistics",
            "volume": "6",
            "pages": "65--70",
            "year": "1979",
        },
    ),
}

OF_ARMS: Final = {
    "dp-sgd": "abadi2016",
    "pixel-laplace": "dwork2006",
    "dp-pix": "fan2018",
    "local-update": "mcmahan2018",
    "central-fixed": "mcmahan2018",
    "central-adaptive": "andrew2021",
}
"""The work that describes the mechanism of an arm, by its kind; others have none."""


def bibliography(keys: Iterable[str]) -> str:
    """The entries of these works, in the order in which they are first cited."""
    return "\n".join(_entry(key) for key in dict.fromkeys(keys))


def _entry(key: str) -> str:
    kind, fields = _ENTRIES[key]
    lines = [
        f"  {name} = {{{value.replace('VERSION', fedmed.__version__)}}},"
        for name, value in fields.items()
    ]
    return "\n".join([f"@{kind}{{{key},", *lines, "}", ""])
