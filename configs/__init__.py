"""Experiments as files: a method and a dataset each, a variant for every row of a paper's table.

`README.md` lists every file and variant. On the command line a file has its place or its name,
`configs/kap_cifar10.py:sigma0.2` or `kap_cifar10:sigma0.2`. In Python it is a module of this
package, which is `configs` in a checkout and `robust_jax.configs` once it is installed.

* `quickstart`, and `*_digits`: seconds to minutes on a CPU, scikit-learn's digits;
* `standard_*`, `kap_*`, `batch_ensemble_*`: KAP's tables (Bashivan et al., 2022);
* `rls_*`, `rse_*`, `sap_*`, `grad_div_*`: random layer sampling (Lee et al., 2020), other noise;
* `ensemble_*`, `adp_*`, `gal_*`, `dverge_*`, `trs_*`: the plain ensembles and the others that
  PARL and LPD compare with;
* `parl_*`, `lpd_*`: PARL (Alam et al., 2021) and Laplace priority dropout (Wu et al., 2023);
* `regroup_*`: REGroup (Tiwari et al., 2020), fitted on public networks;
* `eval/`: evaluations, a file a paper and a variant for every table and figure;
* `recipes/`: what files share.
"""
