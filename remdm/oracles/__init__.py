"""Who says what the plan should have been."""
