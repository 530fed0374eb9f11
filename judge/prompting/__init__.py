"""From a comparison to token ids; every stage builds its prompts here.

Doors:

- `builder`: `PromptBuilder`, the one builder of token ids
- `template`: `Template` and its YAML files
- `template_folders`: where templates are found
- `template_check`: mistakes in a template's text
- `check`: mistakes in a template, found on awkward rows
- `diff`: what differs between two templates
- `awkward_rows`: rows that show such mistakes
- `budget`: how many tokens each text keeps
- `encoding`: texts to token ids: trusted ones and those of users
- `verdict`: verdict tokens, softmax, averaging of orders
"""
