"""Between generations: labels, selection, training and the loop, a room each."""
