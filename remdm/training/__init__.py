"""What turns labelled states into weights: collecting, imagining, optimising, saving."""
