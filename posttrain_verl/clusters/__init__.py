"""Where a launch runs when it is not here: a Ray cluster, an allocation of Slurm, Kubernetes. One module each."""
