"""From an adapter to a 4-bit model: `judge merge`, `judge quantize`, `judge drift`.

Doors:

- `merge`: an adapter into its base model
- `awq`: a 4-bit copy
- `drift`: what merging and quantising changed
- `settings`: `QuantizeSettings`
- `calibration_prompts`: what AWQ calibrates on
- `drift_figures`: figures and limits of drift
- `merge_plan`: which tensors change
- `merge_proof`: the merged model beside the adapter
- `layers`: the size of a 4-bit model
"""
