"""What ``benchmarks/gpu.py`` runs: is this package right, does it fit, and is it fast on the device at hand?"""
