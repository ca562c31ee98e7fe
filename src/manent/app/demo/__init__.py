"""The demonstration on four hospitals: training, comparing, drawing and reporting."""
