"""What is run where a GPU is at hand: `benchmarks/gpu.sh`, in stages that each leave their result."""
