"""From a trained judge to a 4-bit model: merging the adapter, AWQ, and what that changes about the verdicts."""
