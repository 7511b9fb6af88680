"""The numbers (%) that the KAP paper prints, by checkpoint and by the rows of eval/kap.py.

Bashivan et al., "Learning robust kernel ensembles with kernel average pooling", arXiv 2210.00062,
2022, tables 1, 2, A1, A2, A5 and A6.
"""

from robust_jax.evaluation.protocol import Printed

from . import printed

TABLE1 = printed.table(
    "table 1",
    """
    model                     | clean pgd20 autoattack square
    standard_cifar10          | 94.66 0.0   0.0        0.87
    standard_cifar10-at       | 84.20 43.70 43.00      49.10
    batch_ensemble_cifar10    | 95.60 7.90  7.80       21.00
    kap_cifar10-nt_sigma0.1   | 88.95 9.69  8.90       61.7
    kap_cifar10               | 79.09 67.7  41.8       44.49
    kap_cifar10-sigma0.2      | 74.30 65.1  44.40      47.5
    standard_cifar100         | 74.00 0.0   0.0        0.20
    standard_cifar100-at      | 56.50 20.40 19.60      22.86
    kap_cifar100-nt_sigma0.1  | 61.60 6.00  5.20       33.70
    kap_cifar100              | 48.20 33.9  15.70      17.40
    kap_cifar100-sigma0.2     | 38.60 31.9  17.60      27.40
    """,
)
TABLE2_TINY_IMAGENET = printed.table(
    "table 2",
    """
    model                         | clean pgd20 autoattack square
    standard_tiny_imagenet        | 58.90 0.00  0.00       3.30
    standard_tiny_imagenet-at     | 45.80 25.40 21.60      29.10
    kap_tiny_imagenet-nt_sigma0.1 | 56.50 1.90  1.80       35.50
    kap_tiny_imagenet             | 39.60 25.70 16.5       18.70
    """,
)
TABLE2_IMAGENET = printed.table(
    "table 2",
    """
    model                      | clean pgd20 autoattack square
    standard_imagenet          | 68.68 0.0   0.0        2.80
    standard_imagenet-at       | 53.20 8.00  8.00       8.20
    standard_imagenet-widex4_at | 62.00 27.81 11.80     14.10
    kap_imagenet-nt_sigma0.1   | 51.20 0.19  0.20       6.70
    kap_imagenet               | 9.60  6.05  2.85       2.95
    kap_imagenet-widex4        | 38.00 31.49 15.3       14.40
    """,
)
NOISE_ON_ROWS = "clean pgd20 autoattack autoattack_rand20 autoattack_rand50"
TABLE_A1 = printed.table(
    "table A1",
    f"""
    model                    | {NOISE_ON_ROWS} square
    standard_cifar10         | 94.66 0.0   0.0   0.0   -     0.87
    kap_cifar10-nt_sigma0.1  | 88.95 10.91 8.79  8.30  6.20  84.42
    standard_cifar10-at      | 84.20 43.70 43.00 43.38 -     49.10
    kap_cifar10              | 79.09 67.55 58.40 61.64 56.1  66.12
    kap_cifar10-sigma0.2     | 74.30 61.82 55.19 57.04 57.80 63.64
    standard_cifar100        | 74.00 0.0   0.0   0.0   -     0.24
    kap_cifar100-nt_sigma0.1 | 61.60 5.23  4.06  4.30  4.40  49.46
    standard_cifar100-at     | 56.50 20.40 19.60 19.88 -     22.86
    kap_cifar100             | 48.20 36.08 23.70 30.52 28.20 29.80
    kap_cifar100-sigma0.2    | 38.60 31.49 23.36 31.20 31.00 27.40
    """,
)
TABLE_A2_TINY_IMAGENET = printed.table(
    "table A2",
    """
    model                         | clean pgd20 autoattack autoattack_rand20
    standard_tiny_imagenet        | 58.90 0.12  0.02       0.04
    kap_tiny_imagenet-nt_sigma0.1 | 56.50 0.26  0.16       0.38
    standard_tiny_imagenet-at     | 45.80 25.40 21.60      21.92
    kap_tiny_imagenet             | 39.60 27.24 20.78      22.50
    """,
)
TABLE_A2_IMAGENET = printed.table(
    "table A2",
    """
    model                       | clean pgd20 autoattack autoattack_rand20
    standard_imagenet           | 68.68 0.0   0.0        0.0
    kap_imagenet-nt_sigma0.1    | 51.20 0.19  0.20       0.0
    standard_imagenet-at        | 53.20 19.23 6.00       6.00
    kap_imagenet                | 9.60  9.14  3.00       4.80
    standard_imagenet-widex4_at | 62.00 27.81 11.80      11.60
    kap_imagenet-widex4         | 38.00 30.91 21.40      31.00
    """,
)
TABLE_A5 = printed.table(
    "table A5",
    """
    model                | autoattack_nt autoattack_at
    kap_cifar10          | 76.4          66.19
    kap_cifar10-sigma0.2 | 68.6          61.84
    """,
)


def table_a6(variant: str) -> Printed:
    """Returns table A6 by one reading of its columns.

    Args:
        variant: of `kap_cifar10`, where NOISE stands for "none", "input", "activation" or "both".
    """
    rows = {
        "a6_nt": {"none": 5.00, "activation": 8.90, "input": 16.9, "both": 21.10},
        "a6": {"none": 8.3, "activation": 41.80, "input": 57.30, "both": 60.70},
    }
    return Printed(
        "table A6",
        {
            f"kap_cifar10-{model}_{variant.replace('NOISE', noise)}": {"autoattack": number}
            for model, numbers in rows.items()
            for noise, number in numbers.items()
        },
    )
