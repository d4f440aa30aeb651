"""From the tracking store to tables, pictures and sentences about robustness."""
