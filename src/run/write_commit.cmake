# Writes HEADER with the commit of SOURCE_DIR; leaves the file alone where nothing changed, so that a build compiles
# one small file again after a commit and nothing otherwise.
set(commit "unknown")
execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} rev-parse HEAD OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE
                ERROR_QUIET RESULT_VARIABLE failed)
if(NOT failed)
  execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} status --porcelain --untracked-files=no OUTPUT_VARIABLE changes
                  ERROR_QUIET)
  set(commit "${head}")
  if(changes)
    set(commit "${head}-dirty")
  endif()
endif()
set(text "#define DGA_COMMIT \"${commit}\"\n")
if(EXISTS ${HEADER})
  file(READ ${HEADER} old)
endif()
if(NOT "${old}" STREQUAL "${text}")
  file(WRITE ${HEADER} "${text}")
endif()
