"""From an adapter to a 4-bit model: `judge merge`, `judge quantize`, `judge drift`.

Doors:

- `merge`: an adapter into its base model
- `awq`: a 4-bit copy
- `drift`: what merging and quantising changed
- `back_end`: the interface of the quantising libraries, and the settings
- `calibration`: the calibration prompts
- `drift_figures`: figures and limits of drift
- `merge_plan`: which tensors change
- `merge_proof`: the merged model beside the adapter
- `size_report`: sizes of layers
- `unfinished`: output folders of interrupted work
"""
