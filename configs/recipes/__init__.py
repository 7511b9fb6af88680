"""What several configuration files share: a paper's data, networks and schedules, its tables.

* `kap`, `kap_tables`: the KAP paper's four datasets; the numbers that it prints;
* `rls`: the random layer sampling paper's three datasets, its attacks and numbers;
* `ensembles`: PARL's and LPD's, and plain ensembles;
* `baselines`: what papers compare with; `adversarial`: adversarial training as its authors do it;
* `changes`: a configuration with something else in a part of it, and its name;
* `printed`: papers' tables as text.
"""
