"""What separate processes of one run hand to each other, through its folder."""
