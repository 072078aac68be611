"""Trajectories on disk: shards, labels, manifests, and the windows a learner draws."""
