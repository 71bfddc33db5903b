"""What a network costs: its arithmetic, counted three ways, and its time and memory, measured."""
