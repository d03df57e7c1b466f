"""The exceptions of Intact: one class per family, all under `IntactError`."""


class IntactError(Exception):
    """Base class of every error that Intact raises on purpose. Its message names the cause and the remedy."""


class ModelError(IntactError):
    """A model directory or source file is missing, malformed, unsupported, or fails a proof of the contract."""


class RequestError(IntactError, ValueError):
    """A request is outside what the model or the sampler accepts: a parameter, a token id, a length."""


class TokenizerError(IntactError, ValueError):
    """A tokenizer file, a GGUF vocabulary or a chat template is unusable, or a text or message given to it is."""


class ReceiptError(IntactError, ValueError):
    """A file is no receipt, or a receipt of a version that this release does not know."""


class DeviceError(IntactError):
    """A device or an instruction set was asked for that this machine does not offer, or it failed."""


class StateError(IntactError, ValueError):
    """A file is no saved state, or one of another model or version."""


class DeviceWarning(UserWarning):
    """`device="auto"` has become the CPU; the message says why."""
