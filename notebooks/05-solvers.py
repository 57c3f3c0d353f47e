# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Solvers

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys
