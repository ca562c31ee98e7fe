"""`manent epsilon`, `noise` and `budget`: what noise gives, what a budget needs, and what data sets have left."""
