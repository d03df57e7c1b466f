"""Release wheels: their build, their audit, and the installed package on this and on emulated machines."""
