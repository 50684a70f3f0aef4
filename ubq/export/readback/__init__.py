"""What a written file says of itself: its integers, its operators, its digest."""
