"""Other ways to learn the same task, on the planner's levels, encoder, budget and measurements."""
